using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class FaultTests
{
    private const uint Overflow = 1, Pending = 2, QueueError = 1 << 4;
    private const uint Masked = 1u << 31, InterruptPending = 1u << 30;

    [Fact]
    public void RecordsFillInOrderThenOverflow()
    {
        using GuestDriver guest = Blocked();
        for (ulong page = 0; page < 8; page++)
        {
            guest.DmaRead(page << 12, out _);
            guest.DmaRead(page << 12, out _); // the same again takes no second record
        }

        Assert.Equal(Pending, guest.Read32(Fsts));
        Assert.Equal(Enumerable.Range(0, 8).Select(page => (ulong)page << 12), TranslationTests.Faults(guest).Select(fault => fault.Address));
        guest.DmaRead(0x9000, out _);
        Assert.Equal(Pending | Overflow, guest.Read32(Fsts));
        // Room alone does not end an overflow.
        guest.Write32(0x220 + 12, 1u << 31);
        guest.DmaRead(0xA000, out _);
        Assert.Equal(7, TranslationTests.Faults(guest).Count);
        guest.Write32(Fsts, Overflow);
        guest.DmaRead(0xA000, out _);
        Assert.Equal(8, TranslationTests.Faults(guest).Count);
        Assert.Equal(0xA000ul, guest.ReadRegister64(0x220));
    }

    [Fact]
    public void TheFirstPendingRecordIsTold()
    {
        using GuestDriver guest = Blocked();
        guest.DmaRead(0x1000, out _);
        guest.DmaRead(0x2000, out _);
        Assert.Equal(Pending, guest.Read32(Fsts));
        TranslationTests.ClearFaults(guest);
        Assert.Equal(0u, guest.Read32(Fsts) & (Pending | Overflow));
        guest.DmaRead(0x3000, out _);
        Assert.Equal(Pending | (2u << 8), guest.Read32(Fsts));
        guest.Write32(Fsts, Pending); // read-only: a summary of the records
        Assert.Equal(Pending | (2u << 8), guest.Read32(Fsts));
    }

    /// <summary>VT-d 7.2.1: recording begins anew when neither translation nor interrupt remapping is on.</summary>
    [Fact]
    public void RecordingBeginsAnewWhenAllIsOff()
    {
        using GuestDriver guest = Blocked();
        guest.DmaRead(0x1000, out _);
        TranslationTests.ClearFaults(guest);
        guest.Command(0, clear: Te);
        guest.Command(Te);
        guest.DmaRead(0x2000, out _);
        Assert.Equal(Pending, guest.Read32(Fsts));
        Assert.Equal(0x2000ul, guest.ReadRegister64(0x220));
    }

    [Fact]
    public void OneEventUntilAllIsCleared()
    {
        using GuestDriver guest = Blocked();
        guest.Write32(Fedata, 0x31);
        guest.Write32(Feaddr, 0xFEE0_0000);
        guest.Write32(Fectl, 0);
        guest.DmaRead(0x1000, out _);
        guest.DmaRead(0x2000, out _);
        Assert.Single(guest.Events.All);
        guest.Write32(0x220 + 12, 1u << 31);
        guest.DmaRead(0x3000, out _);
        Assert.Single(guest.Events.All);
        TranslationTests.ClearFaults(guest);
        guest.DmaRead(0x4000, out _);
        Assert.Equal(2, guest.Events.All.Count);
    }

    [Fact]
    public void AMaskedEventWaits()
    {
        using GuestDriver guest = Blocked();
        guest.Write32(Feaddr, 0xFEE0_0000);
        Assert.Equal(Masked, guest.Read32(Fectl));
        guest.DmaRead(0x1000, out _);
        Assert.Equal(Masked | InterruptPending, guest.Read32(Fectl));
        Assert.Empty(guest.Events.All);
        guest.Write32(Fectl, 0);
        Assert.Single(guest.Events.All);
        Assert.Equal(0u, guest.Read32(Fectl));
        // Cleared before it is unmasked: never sent.
        TranslationTests.ClearFaults(guest);
        guest.Write32(Fectl, Masked);
        guest.DmaRead(0x1000, out _);
        TranslationTests.ClearFaults(guest);
        Assert.Equal(Masked, guest.Read32(Fectl));
        guest.Write32(Fectl, 0);
        Assert.Single(guest.Events.All);
    }

    [Fact]
    public void ConcurrentFaultsKeepTheRecordsWhole()
    {
        using var guest = new GuestDriver(functions: 4);
        guest.SetRootAndEnable();
        var threads = new List<Thread>();
        for (int function = 0; function < 4; function++)
        {
            int own = function;
            var thread = new Thread(() =>
            {
                for (ulong page = 0; page < 2_000; page++)
                    guest.DmaRead((page << 12) | ((ulong)own << 32), out _, own);
            });
            threads.Add(thread);
            thread.Start();
        }

        for (int round = 0; round < 500; round++)
        {
            foreach ((int reason, ulong address, ushort sid, bool read) in TranslationTests.Faults(guest))
                Assert.True(reason == 2 && read && sid == guest.Sid((int)(address >> 32)), $"{reason:x} {address:x} {sid:x}");
            TranslationTests.ClearFaults(guest);
        }

        Assert.All(threads, thread => Assert.True(thread.Join(TimeSpan.FromSeconds(60))));
        TranslationTests.ClearFaults(guest);
        Assert.Equal(0u, guest.Read32(Fsts) & (Pending | Overflow | QueueError));
    }

    private static GuestDriver Blocked()
    {
        var guest = new GuestDriver();
        guest.SetContext(guest.Sid(), guest.AllocateTable(), 1);
        guest.SetRootAndEnable();
        return guest;
    }
}
