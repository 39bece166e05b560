using System.Collections.Concurrent;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>A board with a PCI bus, a device behind it over a real socket, and a place where its interrupts arrive.</summary>
internal sealed class PassthroughMachine : IDisposable
{
    public const ulong BarAddress = 0x8_0000_0000;
    private const ulong Interrupts = ModelBoard.InterruptWindow << 12;

    private readonly DeviceServer _server;
    private readonly CapabilityRelay? _relay;

    public PassthroughMachine(DmaTestDevice? device = null, bool iommu = true, IommuAttributes? attributes = null, Func<VfioDeviceOptions, VfioDeviceOptions>? configure = null, bool attach = true, Func<string, string>? capabilities = null)
    {
        Device = device ?? new DmaTestDevice();
        _server = new DeviceServer(Device);
        _relay = capabilities is null ? null : new CapabilityRelay(_server.Path, capabilities);
        Board = new ModelBoard(attributes, new Arrivals(Arrived));
        Bridge = new PciHostBridge(Board.Topology, new Gpa(0xB000_0000), 16);
        if (iommu)
            Bridge.RootBus.SetIommu(new BoardIommu(Board));
        var options = new VfioDeviceOptions { Id = "dev0", Socket = _relay?.Path ?? _server.Path, ReplyTimeout = DeviceServer.Patience };
        Function = VfioPciFunction.Connect(configure?.Invoke(options) ?? options, Board.Topology, Board.Ram);
        // Every new attachment begins with a reset, so that nothing of a former client is left; tests look at what comes after.
        Assert.Equal(["reset"], Device.Events.Where(e => !e.StartsWith("config", StringComparison.Ordinal)));
        Device.Events.Clear();
        Function.Notice += Notices.Enqueue;
        if (attach)
            Bridge.RootBus.Attach(Function, new DevFn(3, 0));
    }

    public DmaTestDevice Device { get; }

    public ModelBoard Board { get; }

    public PciHostBridge Bridge { get; }

    public VfioPciFunction Function { get; }

    public ConcurrentQueue<string> Notices { get; } = new();

    /// <summary>Interrupt messages that arrived.</summary>
    public BlockingCollection<uint> Arrived { get; } = [];

    /// <summary>The guest programs BAR 0, memory space and bus mastering, and MSI-X with vector n sending 0x40 + n.</summary>
    public void Boot()
    {
        Function.WriteConfig(0x10, unchecked((uint)BarAddress), 4);
        Function.WriteConfig(0x14, (uint)(BarAddress >> 32), 4);
        Function.WriteConfig(0x04, 6, 2);
        for (uint vector = 0; vector < DmaTestDevice.Vectors; vector++)
        {
            ulong entry = DmaTestDevice.TableOffset + vector * 16;
            Write(entry, Interrupts, 8);
            Write(entry + 8, 0x40 + vector, 8); // data, and unmasked
        }

        int msix = Function.Config.FindCapability(0x11)!.Value;
        Function.WriteConfig(msix + 2, 0x8000, 2);
    }

    /// <summary>A guest CPU's access to BAR 0.</summary>
    public ulong Read(ulong offset, int size = 8)
    {
        Span<byte> data = stackalloc byte[8];
        data.Clear();
        Assert.Equal(MemoryResult.Ok, Board.Topology.System.Read(new BusAddress(BarAddress + offset), data[..size], TransactionAttributes.Vcpu));
        return BitConverter.ToUInt64(data);
    }

    /// <inheritdoc cref="Read"/>
    public void Write(ulong offset, ulong value, int size = 8) =>
        Assert.Equal(MemoryResult.Ok, Board.Topology.System.Write(new BusAddress(BarAddress + offset), BitConverter.GetBytes(value).AsSpan(0, size), TransactionAttributes.Vcpu));

    /// <summary>Lets the device write <paramref name="value"/> to pages; returns how many it could.</summary>
    public ulong Dma(ulong iovaPage, ulong value, int pages = 1)
    {
        Write(DmaTestDevice.AddressRegister, iovaPage << 12);
        Write(DmaTestDevice.ValueRegister, value);
        Write(DmaTestDevice.DoorbellRegister, (ulong)pages);
        return Read(DmaTestDevice.DoorbellRegister);
    }

    public void Map(ulong iovaPage, ulong gpaPage, ulong count = 1, AccessRights rights = AccessRights.ReadWrite) =>
        Board.Iommu.AnnounceMapped(new Iova(iovaPage << 12), count << 12, new Gpa(gpaPage << 12), rights);

    public void Unmap(ulong iovaPage, ulong count = 1) => Board.Iommu.AnnounceUnmapped(new Iova(iovaPage << 12), count << 12);

    /// <summary>First 8 bytes of a RAM page.</summary>
    public ulong Ram(ulong page)
    {
        Assert.True(Board.Ram.TryResolve(new RamPage(page), out RamBlock block, out ulong offset));
        Span<byte> data = stackalloc byte[8];
        block.Read(offset, data);
        return BitConverter.ToUInt64(data);
    }

    /// <summary>Takes the pages marked since the last call.</summary>
    public List<ulong> Dirty()
    {
        var words = new ulong[ModelBoard.RamPages / 64];
        Board.Ram.Dirty.Drain(default, words);
        return [.. Enumerable.Range(0, words.Length * 64).Where(p => (words[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p)];
    }

    public uint TakeInterrupt()
    {
        Assert.True(Arrived.TryTake(out uint data, DeviceServer.Patience), "no interrupt came");
        return data;
    }

    /// <summary>The device's process ends.</summary>
    public void KillDevice() => _server.Stop();

    /// <summary>Waits until the function knows that its device has gone.</summary>
    public void AwaitLoss() => Assert.True(((IAsyncResult)Function.Lost).AsyncWaitHandle.WaitOne(DeviceServer.Patience), "the loss is not noticed");

    public void Dispose()
    {
        Function.Dispose();
        _relay?.Dispose();
        _server.Dispose();
        Board.Dispose();
    }
}
