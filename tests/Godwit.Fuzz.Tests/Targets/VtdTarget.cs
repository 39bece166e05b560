using System.Buffers;
using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Fuzz.Tests;

/// <summary>
/// A guest that programs VT-d at random: registers, tables and queues anywhere in its RAM, DMA at any address, state saved and loaded half way.
/// The first byte chooses the unit. Besides not breaking, the unit must never announce a mapping twice nor withdraw one that it has not announced.
/// </summary>
public sealed class VtdTarget : IFuzzTarget
{
    private const ulong RamSize = RamBlock.SizeUnit;
    private const ulong Root = 0x1000;
    private const ulong Context = 0x2000;
    private const ulong Table = 0x3000;
    private const ulong Queue = 0x8000;
    private const byte RegisterWrite = 0, RamWrite = 1, Dma = 2, SaveAndLoad = 3, RegisterRead = 4;

    private static readonly IntelIommuOptions[] Units =
    [
        new(),
        new() { AddressWidth = 48, ScalableMode = true },
        new() { AddressWidth = 57, ScalableMode = true, DeviceIotlb = true, SnoopControl = true },
        new() { AddressWidth = 57, PassThrough = false },
    ];

    /// <inheritdoc/>
    public static string Name => "vt-d";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        const ulong Present = 1;
        const ulong Rights = 3;
        InputBuilder enable = new InputBuilder()
            .Op(0)
            .Op(RamWrite, Root, Context | Present)
            .Op(RamWrite, Context + (0x18 * 16) + 8, 1 | (7 << 8))
            .Op(RamWrite, Context + (0x18 * 16), Table | Present)
            .Op(RamWrite, Table, (Table + 0x1000) | Rights)
            .Op(RamWrite, Table + 0x1000, (Table + 0x2000) | Rights)
            .Op(RamWrite, Table + 0x2000, 0x10_0000 | Rights)
            .Op(RegisterWrite, 0x20, Root)
            .Op(RegisterWrite, 0x90, Queue)
            .Op(RegisterWrite, 0x18, 1UL << 30)
            .Op(RegisterWrite, 0x18, 1UL << 26)
            .Op(RegisterWrite, 0x18, (1UL << 31) | (1UL << 26));
        yield return enable.Build();
        yield return enable
            .Op(RamWrite, Queue, 0x11).Op(RamWrite, Queue + 8, 0)                      // context, global
            .Op(RamWrite, Queue + 16, 0x32 | (7 << 16)).Op(RamWrite, Queue + 24, 0)    // one page
            .Op(RamWrite, Queue + 32, 0x25 | (1UL << 32)).Op(RamWrite, Queue + 40, 0x9000) // wait
            .Op(RegisterWrite, 0x88, 0x30)
            .Op(Dma, 0x10).Op(Dma, 0x5000)
            .Op(RamWrite, Table + 0x2000, 0)
            .Op(RamWrite, Queue + 48, 0x12).Op(RamWrite, Queue + 56, 0)
            .Op(RegisterWrite, 0x88, 0x40)
            .Op(SaveAndLoad)
            .Op(RegisterRead, 0x34).Op(RegisterRead, 0x220)
            .Build();
        // Tables that share their subtables, walked as a whole.
        yield return enable
            .Op(RamWrite, Table, Table | Rights).Op(RamWrite, Table + 8, Table | Rights).Op(RamWrite, Table + 16, Table | Rights)
            .Op(RegisterWrite, 0x18, 1UL << 31)
            .Op(RegisterWrite, 0xF8, (1UL << 63) | (1UL << 60))
            .Build();
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        var topology = new MemoryTopology();
        using var ram = new GuestRam();
        topology.Add(topology.SystemRoot, default, new RamRegion("ram", ram.Add("ram", RamSize)));
        var reader = new InputReader(input);
        var iommu = new IntelIommu(topology, Units[reader.Byte() % Units.Length]);
        var host = new PciHostBridge(topology, new Gpa(0xB000_0000), 1);
        host.RootBus.SetIommu(iommu);
        AddressSpace dma = iommu.GetAddressSpace(host.RootBus, new DevFn(3, 0));
        var user = new ShadowUser();
        dma.AddListener(user);
        for (int steps = 0; steps < 200 && !reader.AtEnd; steps++)
            Step(ref reader, topology, iommu, dma);
        dma.RemoveListener(user);
    }

    private static void Step(ref InputReader reader, MemoryTopology topology, IntelIommu iommu, AddressSpace dma)
    {
        switch (reader.Byte() % 5)
        {
            case RegisterWrite:
                ulong offset = reader.UInt64() & 0xFF8;
                topology.System.WriteUInt64(new BusAddress(IntelIommu.RegisterBase.Value + offset), reader.UInt64(), TransactionAttributes.Vcpu);
                break;
            case RamWrite:
                ulong address = reader.UInt64() % RamSize & ~7UL;
                topology.System.WriteUInt64(new BusAddress(address), reader.UInt64(), TransactionAttributes.Vcpu);
                break;
            case Dma:
                dma.WriteUInt64(new BusAddress(reader.UInt64()), 1, new TransactionAttributes(DirtySource.Device, 0x18));
                break;
            case SaveAndLoad:
                var state = new ArrayBufferWriter<byte>();
                iommu.SaveState(state);
                byte[] saved = state.WrittenSpan.ToArray();
                iommu.LoadState(saved);
                break;
            default:
                ulong register = reader.UInt64() & 0xFFC;
                topology.System.ReadUInt32(new BusAddress(IntelIommu.RegisterBase.Value + register), out _, TransactionAttributes.Vcpu);
                break;
        }
    }

    /// <summary>Holds the unit to its word.</summary>
    private sealed class ShadowUser : IMemoryListener, IIommuListener
    {
        private readonly SortedSet<(ulong First, ulong Last)> _mapped = [];

        public void RegionAdded(in FlatRange range)
        {
            if (range.Region is IommuRegion region)
                region.AddListener(this, range.Range);
        }

        public void RegionRemoved(in FlatRange range)
        {
            if (range.Region is not IommuRegion region)
                return;
            region.RemoveListener(this);
            _mapped.Clear();
        }

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            Assert.NotEqual(AccessRights.None, rights);
            ulong last = iova.Value + (length - 1);
            (ulong First, ulong Last) below = _mapped.GetViewBetween((0, 0), (last, ulong.MaxValue)).Max;
            Assert.True(below.Last < iova.Value || below == default, $"{iova} + 0x{length:x} is announced over 0x{below.First:x}");
            _mapped.Add((iova.Value, last));
        }

        public void Unmapped(Iova iova, ulong length)
        {
            ulong last = iova.Value + (length - 1);
            ulong covered = 0;
            foreach ((ulong First, ulong Last) part in _mapped.GetViewBetween((iova.Value, 0), (last, ulong.MaxValue)).ToArray())
            {
                Assert.True(part.Last <= last, $"{iova} + 0x{length:x} withdraws part of 0x{part.First:x}");
                covered += part.Last - part.First + 1;
                _mapped.Remove(part);
            }

            Assert.True(covered == length, $"{iova} + 0x{length:x} is withdrawn and was not announced");
        }
    }
}

/// <summary>A peer's idea of a VT-d state.</summary>
public sealed class VtdStateTarget : IFuzzTarget
{
    /// <inheritdoc/>
    public static string Name => "vt-d-state";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        var writer = new ArrayBufferWriter<byte>();
        New(out GuestRam ram).SaveState(writer);
        ram.Dispose();
        yield return writer.WrittenSpan.ToArray();
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        IntelIommu iommu = New(out GuestRam ram);
        using GuestRam owned = ram;
        try
        {
            iommu.LoadState(input);
        }
        catch (InvalidDataException refused)
        {
            Assert.Contains("VT-d state", refused.Message, StringComparison.Ordinal);
        }
    }

    private static IntelIommu New(out GuestRam ram)
    {
        var topology = new MemoryTopology();
        ram = new GuestRam();
        topology.Add(topology.SystemRoot, default, new RamRegion("ram", ram.Add("ram", RamBlock.SizeUnit)));
        return new IntelIommu(topology, new IntelIommuOptions());
    }
}
