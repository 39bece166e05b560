using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

/// <summary>An edu device behind a real server with a real client, 1 MiB of memory mapped at <see cref="Base"/>, MSI set up.</summary>
internal sealed class ServedEdu : IDisposable, IDmaMessageHandler
{
    public const ulong Base = 0x10_0000;
    public const int MemorySize = 1 << 20;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-edu-").FullName;
    private readonly CancellationTokenSource _stop = new();
    private readonly Thread _thread;
    private readonly EventFd _msi = EventFd.Create();
    private readonly EventFd _pin = EventFd.Create();

    public ServedEdu(MemFd memory, EduDevice? device = null, bool map = true)
    {
        Device = device ?? new EduDevice();
        string path = Path.Combine(_folder, "s");
        using var listening = new ManualResetEventSlim();
        var options = new VfioUserServerOptions { SocketPath = path, DmaReplyTimeout = Patience, HandshakeTimeout = Patience, DetachTimeout = Patience, Log = _ => listening.Set() };
        _thread = new Thread(() => VfioUserServer.Run(Device, options, _stop.Token));
        _thread.Start();
        Assert.True(listening.Wait(Patience));
        Client = VfioUserClient.Connect(path, new VfioUserClientOptions { ReplyTimeout = Patience }, this);
        if (map)
            Client.DmaMap(new DmaRange(new DmaAddress(Base), MemorySize), DmaAccess.Read | DmaAccess.Write, memory, 0);
        Client.SetIrqEventFds(PciIrq.Msi, 0, [_msi]);
        Client.SetIrqEventFds(PciIrq.Intx, 0, [_pin]);
    }

    public EduDevice Device { get; }

    public VfioUserClient Client { get; }

    /// <summary>The device's MSI Enable.</summary>
    public void UseMsi() => WriteConfig16(0x42, 0x0081);

    public void WriteConfig16(ulong offset, ushort value) => Client.WriteRegion(PciRegion.Config, offset, BitConverter.GetBytes(value), posted: false);

    public ushort ReadConfig16(ulong offset)
    {
        byte[] bytes = new byte[2];
        Client.ReadRegion(PciRegion.Config, offset, bytes);
        return BitConverter.ToUInt16(bytes);
    }

    public uint Read(int register)
    {
        byte[] bytes = new byte[4];
        Client.ReadRegion(0, (ulong)register, bytes);
        return BitConverter.ToUInt32(bytes);
    }

    public ulong ReadWide(int register)
    {
        byte[] bytes = new byte[8];
        Client.ReadRegion(0, (ulong)register, bytes);
        return BitConverter.ToUInt64(bytes);
    }

    public void Write(int register, uint value) => Client.WriteRegion(0, (ulong)register, BitConverter.GetBytes(value), posted: true);

    public void WriteWide(int register, ulong value) => Client.WriteRegion(0, (ulong)register, BitConverter.GetBytes(value), posted: true);

    /// <summary>Programs a transfer and starts it.</summary>
    public void Transfer(ulong source, ulong destination, ulong count, ulong command)
    {
        WriteWide(EduRegister.DmaSource, source);
        WriteWide(EduRegister.DmaDestination, destination);
        WriteWide(EduRegister.DmaCount, count);
        WriteWide(EduRegister.DmaCommand, command | EduRegister.DmaStart);
    }

    public void AwaitMsi() => Await(_msi, "MSI");

    public void AwaitPin() => Await(_pin, "INTx");

    /// <summary>How often the pin has been signalled since the last look.</summary>
    public ulong DrainPin() => _pin.Drain();

    public ulong DrainMsi() => _msi.Drain();

    public Errno Read(DmaAddress address, Span<byte> destination) => Errno.ENODEV;

    public Errno Write(DmaAddress address, ReadOnlySpan<byte> data) => Errno.ENODEV;

    public void Dispose()
    {
        Client.Dispose();
        _stop.Cancel();
        Assert.True(_thread.Join(Patience), "the server did not stop");
        Device.Dispose();
        _msi.Dispose();
        _pin.Dispose();
        _stop.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static unsafe void Await(EventFd fd, string what)
    {
        // SAFETY: one entry in this frame; the descriptor is this object's.
        var entry = new pollfd { fd = fd.Number, events = poll.POLLIN };
        Assert.True(poll.wait(&entry, 1, (int)Patience.TotalMilliseconds) == 1, $"no {what} came");
        fd.Drain();
    }
}
