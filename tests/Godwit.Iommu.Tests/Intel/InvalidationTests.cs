using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>What an invalidation of legacy tables reaches, by register and by queue, and which queue is read.</summary>
public class InvalidationTests
{
    private const ulong Icc = 1UL << 63;
    private const int Global = 1, Domain = 2, Selective = 3;

    /// <summary>CCMD: all, those of a domain, a device whose low function bits FM ignores (VT-d 11.4.6.1). The actual granularity is the one asked for.</summary>
    [Theory]
    [InlineData(Global, 0, 0, 0, new[] { 1, 2, 3, 4, 5, 6, 7 })]
    [InlineData(Domain, 1, 0, 0, new[] { 1, 3, 5, 7 })]
    [InlineData(Domain, 2, 0, 0, new[] { 2, 4, 6 })]
    [InlineData(Domain, 3, 0, 0, new int[0])]
    [InlineData(Selective, 0, 3, 0, new[] { 3 })]
    [InlineData(Selective, 0, 3, 1, new[] { 3, 7 })]
    [InlineData(Selective, 0, 3, 2, new[] { 1, 3, 5, 7 })]
    [InlineData(Selective, 0, 3, 3, new[] { 1, 2, 3, 4, 5, 6, 7 })]
    public void AContextCommandReachesWhatItNames(int granularity, int domain, int function, int mask, int[] reached)
    {
        using var guest = new GuestDriver();
        var functions = new List<Function>();
        for (int number = 1; number < 8; number++)
        {
            var neighbour = new Function(number);
            guest.Pci.RootBus.Attach(neighbour, new Pci.DevFn(3, number));
            guest.SetContext(neighbour.RequesterId.Value, 0, (ushort)(2 - (number % 2)), type: 2);
            functions.Add(neighbour);
        }

        EnableWithoutQueue(guest);
        Assert.All(functions, neighbour => Assert.True(neighbour.DmaSpace.IsSystemMemory));
        foreach (Function neighbour in functions)
            guest.ClearContext(neighbour.RequesterId.Value);
        ulong source = function == 0 ? 0ul : functions[function - 1].RequesterId.Value;
        guest.WriteRegister64(Ccmd, Icc | ((ulong)granularity << 61) | ((ulong)mask << 32) | (source << 16) | (ushort)domain);
        Assert.Equal((0ul, (ulong)granularity), (guest.ReadRegister64(Ccmd) >> 63, (guest.ReadRegister64(Ccmd) >> 59) & 3));
        Assert.Equal(reached, functions.Where(neighbour => !neighbour.DmaSpace.IsSystemMemory).Select(neighbour => neighbour.Number));
    }

    /// <summary>The IOTLB register and descriptor: all, a domain, pages of a domain; DR, DW and IH change nothing (VT-d 11.4.6.3, 6.5.2.3).</summary>
    [Theory]
    [InlineData(Global, 0, 0, 0, true, true)]
    [InlineData(Domain, 1, 0, 0, true, false)]
    [InlineData(Domain, 2, 0, 0, false, true)]
    [InlineData(Domain, 3, 0, 0, false, false)]
    [InlineData(Selective, 1, 0x5000, 0, true, false)]
    [InlineData(Selective, 1, 0x4000, 0, false, false)]
    [InlineData(Selective, 1, 0x4000, 1, true, false)]
    [InlineData(Selective, 2, 0x5000, 0, false, true)]
    [InlineData(Selective, 2, 0, 18, false, true)]
    public void AnIotlbCommandReachesWhatItNames(int granularity, int domain, int address, int mask, bool first, bool second)
    {
        foreach (bool queued in (bool[])[false, true])
        {
            for (int hints = 0; hints < 8; hints++)
            {
                ulong drains = (uint)hints & 3, hint = (ulong)(hints >> 2) << 6;
                using var guest = new GuestDriver(functions: 2);
                ulong table = guest.AllocateTable();
                guest.SetContext(guest.Sid(), table, 1);
                guest.SetContext(guest.Sid(1), table, 2);
                guest.Map(table, 0x5000, 0x8000);
                guest.Write64(0x8000, 1);
                guest.Write64(0x9000, 2);
                EnableWithoutQueue(guest);
                Assert.Equal((1ul, 1ul), (Read(guest, 0), Read(guest, 1)));
                guest.Map(table, 0x5000, 0x9000);
                if (queued)
                {
                    guest.EnableQueue();
                    guest.Invalidate((2u | ((uint)granularity << 4) | (drains << 6) | ((ulong)domain << 16), (uint)address | hint | (uint)mask));
                }
                else
                {
                    guest.WriteRegister64(Iva, (uint)address | hint | (uint)mask);
                    guest.WriteRegister64(IotlbReg, Icc | ((ulong)granularity << 60) | (drains << 48) | ((ulong)domain << 32));
                    ulong result = guest.ReadRegister64(IotlbReg);
                    Assert.Equal((0ul, (ulong)granularity, drains), (result >> 63, (result >> 57) & 3, (result >> 48) & 3));
                }

                Assert.Equal((first ? 2ul : 1, second ? 2ul : 1), (Read(guest, 0), Read(guest, 1)));
                Assert.Equal(0u, guest.Read32(Fsts));
            }
        }

        static ulong Read(GuestDriver guest, int function)
        {
            Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x5000, out ulong value, function));
            return value;
        }
    }

    /// <summary>Base, size and width are those that IQA had when QIE was set, whatever it says meanwhile; the head begins at 0 (VT-d 11.4.4.1).</summary>
    [Fact]
    public void TheQueueIsTheOneThatWasLatched()
    {
        using var guest = new GuestDriver();
        ulong other = guest.AllocateTable();
        guest.Write64(other, 5u | (1u << 5) | (0x77ul << 32));
        guest.Write64(other + 8, guest.StatusWord);
        guest.EnableQueue();
        guest.WriteRegister64(Iqa, other | (1 << 11) | 3);
        for (int round = 0; round < 300; round++) // over the end of the queue of 256
            guest.Invalidate(IotlbGlobal);
        Assert.NotEqual(0ul, guest.ReadRegister64(Iqh));
        guest.WriteRegister64(Iqa, other);
        guest.WriteRegister64(Iqt, 0x10);
        guest.Command(0, clear: Qie);
        Assert.Equal(0ul, guest.ReadRegister64(Iqh));
        guest.Write32(Fsts, 1 << 4);
        guest.Command(Qie);
        Assert.Equal(0x77ul, guest.Read64(guest.StatusWord));
        Assert.Equal(0x10ul, guest.ReadRegister64(Iqh));
    }

    /// <summary>RTADDR means nothing before SRTP has latched it: contexts are still read from the old table (VT-d 11.4.5).</summary>
    [Fact]
    public void TheRootTableIsTheOneThatWasLatched()
    {
        using var guest = new GuestDriver();
        guest.SetContext(guest.Sid(), 0, 1, type: 2);
        EnableWithoutQueue(guest);
        guest.WriteRegister64(Rtaddr, guest.AllocateTable());
        guest.WriteRegister64(Ccmd, Icc | (1UL << 61));
        Assert.True(guest.Functions[0].DmaSpace.IsSystemMemory);
        guest.Command(Srtp);
        Assert.False(guest.Functions[0].DmaSpace.IsSystemMemory);
    }

    private static void EnableWithoutQueue(GuestDriver guest)
    {
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        guest.Command(Te);
    }

    private sealed class Function : Pci.PciFunction
    {
        internal Function(int number) : base($"f{number}")
        {
            Number = number;
            SetIdentity(0x1AF4, 0x1000, 0xFF_00_00);
        }

        internal int Number { get; }
    }
}
