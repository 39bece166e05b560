using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>DEVICE_SET_IRQS in all its forms.</summary>
public sealed class InterruptTests : IDisposable
{
    private const uint Trigger = 0x20;
    private readonly TestServer _server = new();
    private readonly RawPeer _peer;
    private readonly IDeviceHost _host;

    public InterruptTests()
    {
        _peer = RawPeer.ConnectAndNegotiate(_server.Path);
        _host = TestServer.Take(_server.Device.Connections);
    }

    public void Dispose()
    {
        _peer.Dispose();
        _server.Dispose();
    }

    [Fact]
    public void Wrong_combinations_are_refused()
    {
        using EventFd fd = EventFd.Create();
        using MemFd file = MemFd.Create("f", 4096);
        (uint Flags, uint Index, uint Start, uint Count, byte[] Data, FileDescriptor[] Files, Errno Expected)[] cases =
        [
            (0, 2, 0, 1, [], [], Errno.EINVAL),
            (Trigger, 2, 0, 1, [], [], Errno.EINVAL),
            (1, 2, 0, 1, [], [], Errno.EINVAL),
            (3 | Trigger, 2, 0, 1, [1], [], Errno.EINVAL),
            (1 | 8 | Trigger, 2, 0, 1, [], [], Errno.EINVAL),
            (1 | 0x40 | Trigger, 2, 0, 1, [], [], Errno.EINVAL),
            (1 | Trigger, 5, 0, 1, [], [], Errno.EINVAL),
            (1 | Trigger, uint.MaxValue, 0, 1, [], [], Errno.EINVAL),
            (1 | Trigger, 2, 64, 1, [], [], Errno.EINVAL),
            (1 | Trigger, 2, 63, 2, [], [], Errno.EINVAL),
            (1 | Trigger, 2, 1, uint.MaxValue, [], [], Errno.EINVAL),
            (1 | Trigger, 2, uint.MaxValue, 1, [], [], Errno.EINVAL),
            (1 | Trigger, 2, 1, 0, [], [], Errno.EINVAL),
            (1 | 8, 2, 0, 0, [], [], Errno.EINVAL),
            (4 | Trigger, 2, 0, 0, [], [], Errno.EINVAL),
            (2 | Trigger, 2, 0, 2, [1], [], Errno.EINVAL),
            (2 | Trigger, 2, 0, 2, [1, 1, 1], [], Errno.EINVAL),
            (1 | Trigger, 2, 0, 1, [], [fd], Errno.EINVAL),
            (2 | Trigger, 2, 0, 1, [1], [fd], Errno.EINVAL),
            (4 | Trigger, 2, 0, 2, [], [fd], Errno.EINVAL),
            (4 | Trigger, 2, 0, 1, [], [fd, fd], Errno.EINVAL),
            (4 | Trigger, 2, 0, 1, [], [file], Errno.EINVAL),
            (4 | Trigger, 2, 0, 2, [], [fd, file], Errno.EINVAL),
            (4 | 8, 2, 0, 1, [], [file], Errno.EINVAL),
            (4 | 8, 2, 0, 2, [], [fd], Errno.EINVAL),
            (4 | 0x10, 2, 64, 1, [], [fd], Errno.EINVAL),
        ];
        int before = OpenFiles.Count();
        foreach (var c in cases)
            Assert.True(c.Expected == Set(c.Flags, c.Index, c.Start, c.Count, c.Data, c.Files), $"flags 0x{c.Flags:x} index {c.Index} start {c.Start} count {c.Count}");
        Assert.Equal(Errno.EINVAL, _peer.Try(Command.DeviceSetIrqs, RawPeer.Bytes(new SetIrqsBody { ArgSize = 19, Flags = (IrqSetFlags)0x21 })));
        OpenFiles.AssertReturnsTo(before);
    }

    [Fact]
    public void An_index_without_vectors_can_be_disabled() => Assert.Equal(Errno.None, Set(1 | Trigger, PciIrq.Msi, 0, 0, []));

    [Fact]
    public void More_descriptors_than_were_agreed_are_refused_and_closed()
    {
        using EventFd fd = EventFd.Create();
        int before = OpenFiles.Count();
        Assert.Equal(Errno.EINVAL, Set(4 | Trigger, 2, 0, 40, [], [.. Enumerable.Repeat(fd, 40)]));
        OpenFiles.AssertReturnsTo(before);
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 0, 16, [], [.. Enumerable.Repeat(fd, 16)]));
        Assert.Equal(Errno.None, Set(1 | Trigger, 2, 0, 0, []));
        OpenFiles.AssertReturnsTo(before);
    }

    [Fact]
    public void Vectors_are_assigned_replaced_and_taken_away_one_by_one()
    {
        using EventFd first = EventFd.Create();
        using EventFd second = EventFd.Create();
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 5, 1, [], [first]));
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 5, 2, [], [second, second]));
        _host.Trigger(2, 5);
        Assert.Equal((0ul, 1ul), (first.Drain(), second.Drain()));
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 5, 1, []));
        _host.Trigger(2, 5);
        Assert.Equal(0ul, second.Drain());
        _host.Trigger(2, 6);
        Assert.Equal(1ul, second.Drain());
    }

    [Fact]
    public void Masked_vectors_remember_one_trigger()
    {
        using EventFd fd = EventFd.Create();
        Assert.Equal(Errno.None, Set(4 | Trigger, 0, 0, 1, [], [fd]));
        Assert.Equal(Errno.None, Set(1 | 8, 0, 0, 1, []));
        _host.Trigger(0, 0);
        _host.Trigger(0, 0);
        Assert.Equal(0ul, fd.Drain());
        Assert.Equal(Errno.None, Set(2 | 0x10, 0, 0, 1, [0])); // bool 0: not this one
        Assert.Equal(0ul, fd.Drain());
        Assert.Equal(Errno.None, Set(2 | 0x10, 0, 0, 1, [1]));
        Assert.Equal(1ul, fd.Drain());
        Assert.Equal(Errno.None, Set(1 | 0x10, 0, 0, 1, []));
        Assert.Equal(0ul, fd.Drain());
    }

    [Fact]
    public void A_level_is_told_once_until_it_is_unmasked()
    {
        using EventFd fd = EventFd.Create();
        using EventFd other = EventFd.Create();
        Assert.Equal(Errno.None, Set(4 | Trigger, 0, 0, 1, [], [fd]));
        _host.SetPin(true);
        Assert.Equal(1ul, fd.Drain());
        _host.SetPin(false);
        _host.SetPin(true); // it has masked itself
        Assert.Equal(0ul, fd.Drain());
        Assert.Equal(Errno.None, Set(1 | 0x10, 0, 0, 1, [])); // still asserted
        Assert.Equal(1ul, fd.Drain());
        Assert.Equal(Errno.None, Set(4 | Trigger, 0, 0, 1, [], [other])); // who listens now has not been told
        Assert.Equal(1ul, other.Drain());
        _host.SetPin(false);
        Assert.Equal(Errno.None, Set(1 | 0x10, 0, 0, 1, []));
        Assert.Equal(0ul, other.Drain());
        Assert.Equal(Errno.None, Set(1 | 8, 0, 0, 1, [])); // by the client
        _host.SetPin(true);
        Assert.Equal(0ul, other.Drain());
        Assert.Equal(Errno.None, Set(4 | Trigger, 0, 0, 1, [], [fd]));
        Assert.Equal(0ul, fd.Drain()); // which a new eventfd does not undo
        Assert.Equal(Errno.None, Set(1 | 0x10, 0, 0, 1, []));
        Assert.Equal(1ul, fd.Drain());
    }

    [Fact]
    public void Loopback_triggers_those_that_are_named()
    {
        EventFd[] fds = [.. Enumerable.Range(0, 4).Select(_ => EventFd.Create())];
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 0, 4, [], fds));
        Assert.Equal(Errno.None, Set(2 | Trigger, 2, 0, 4, [1, 0, 0, 255]));
        Assert.Equal([1ul, 0ul, 0ul, 1ul], fds.Select(fd => fd.Drain()));
        Assert.Equal(Errno.None, Set(1 | Trigger, 2, 1, 2, []));
        Assert.Equal([0ul, 1ul, 1ul, 0ul], fds.Select(fd => fd.Drain()));
    }

    [Fact]
    public void A_blocking_eventfd_that_is_full_does_not_stop_the_device()
    {
        using EventFd fd = EventFd.Create();
        FillAndMakeBlocking(fd);
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 0, 1, [], [fd]));
        _host.Trigger(2, 0);
    }

    [Fact]
    public void An_eventfd_that_the_client_makes_blocking_later_and_fills_costs_the_client_its_connection()
    {
        using EventFd fd = EventFd.Create();
        using EventFd other = EventFd.Create();
        Assert.Equal(Errno.None, Set(4 | Trigger, 2, 0, 2, [], [fd, other]));
        FillAndMakeBlocking(fd);
        _peer.Send(Command.DeviceSetIrqs, RawPeer.Bytes(new SetIrqsBody { ArgSize = 20, Flags = (IrqSetFlags)(1 | Trigger), Index = 2, Count = 1 }));
        _peer.TryReceive()?.Dispose(); // the answer may still come
        TestServer.Take(_server.Device.Disconnections);
        _host.Trigger(2, 1); // of a session that has ended
        Assert.Equal(0ul, other.Drain());
        using VfioUserClient next = _server.Connect();
        next.Reset();
        while (!TestServer.Take(_server.LogLines).Contains("filled the eventfd of vector 0 of interrupt index 2", StringComparison.Ordinal))
        {
        }
    }

    [Fact]
    public void A_server_stops_although_its_device_hangs_in_a_full_eventfd()
    {
        using EventFd fd = EventFd.Create();
        Assert.Equal(Errno.None, Set(4 | Trigger, 0, 0, 1, [], [fd]));
        FillAndMakeBlocking(fd);
        Background device = Background.Run(() => _host.SetPin(true));
        _server.Stop();
        device.Join();
    }

    [Fact]
    public void A_full_eventfd_can_be_emptied_whoever_made_it_blocking()
    {
        using EventFd fd = EventFd.Create();
        Assert.Equal(0, unistd.fcntl(fd, unistd.F_SETFL, 0));
        Assert.False(fd.EmptyIfFull());
        Assert.Equal(0ul, fd.Drain()); // read(2) would wait
        Assert.True(fd.Signal());
        Assert.False(fd.EmptyIfFull());
        Assert.Equal(1ul, fd.Drain());
        FillAndMakeBlocking(fd);
        Background writer = Background.Run(() => fd.Signal());
        Assert.True(fd.EmptyIfFull());
        writer.Join();
    }

    private static unsafe void FillAndMakeBlocking(EventFd fd)
    {
        Assert.Equal(0, unistd.fcntl(fd, unistd.F_SETFL, 0));
        // SAFETY: 8 bytes of this frame.
        ulong full = ulong.MaxValue - 1;
        Assert.Equal(8, unistd.write(fd, &full, 8));
    }

    [Fact]
    public void Triggers_of_what_does_not_exist_do_nothing()
    {
        _host.Trigger(2, 64);
        _host.Trigger(2, -1);
        _host.Trigger(9, 0);
        _host.Trigger(-1, 0);
    }

    private Errno Set(uint flags, uint index, uint start, uint count, byte[] data, FileDescriptor[]? files = null) => _peer.Try(
        Command.DeviceSetIrqs,
        RawPeer.Bytes(new SetIrqsBody { ArgSize = (uint)(20 + data.Length), Flags = (IrqSetFlags)flags, Index = index, Start = start, Count = count }, data),
        files ?? []);
}
