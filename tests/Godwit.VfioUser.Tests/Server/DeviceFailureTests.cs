using System.Buffers.Binary;
using System.Collections.Concurrent;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>
/// A device whose work throws says so by the error interrupt, answers nothing any more, and is whole again after a reset. One whose work does
/// not end is not stopped, and runs on.
/// </summary>
public sealed class DeviceFailureTests
{
    [Fact]
    public void The_error_interrupt_tells_of_work_that_failed()
    {
        var device = new DeviceThatFails();
        using var served = new ServedDevice(device);
        using VfioUserClient client = VfioUserClient.Connect(served.Path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, new NoDma());
        Assert.Equal(1, client.GetIrqInfo(PciIrq.Error).Count);
        using EventFd error = EventFd.Create();
        client.SetIrqEventFds(PciIrq.Error, 0, [error]);
        byte[] word = new byte[4];
        client.WriteRegion(0, 0, word, posted: false);
        Assert.True(device.Failed.Wait(TestServer.Patience)); // logged after the interrupt
        Assert.Equal(1ul, error.Drain());
        Assert.Throws<VfioUserRemoteException>(() => client.ReadRegion(0, 0, word));
        client.Reset();
        client.ReadRegion(0, 0, word);
        Assert.Equal(DeviceThatFails.Value, BinaryPrimitives.ReadUInt32LittleEndian(word));
        Assert.Equal(0ul, error.Drain());
    }

    [Fact]
    public void Work_that_does_not_end_in_time_refuses_the_stop_and_goes_on()
    {
        var clock = new ManualClock();
        var device = new DeviceThatWorksLong { QuiesceWait = TimeSpan.FromHours(1), Clock = clock };
        using var served = new ServedDevice(device);
        using VfioUserClient client = VfioUserClient.Connect(served.Path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, new NoDma());
        client.WriteRegion(0, 0, [1], posted: false);
        Assert.True(device.Began.Wait(TestServer.Patience));
        Background stop = Background.Run(() =>
            Assert.Equal(Errno.ETIMEDOUT, Assert.Throws<VfioUserRemoteException>(() => client.SetMigrationState(DeviceMigrationState.Stop)).Errno));
        clock.AwaitTimer();
        clock.Advance(TimeSpan.FromMinutes(59));
        Assert.True(stop.IsRunning);
        clock.Advance(TimeSpan.FromMinutes(1));
        stop.Join();
        Assert.Contains("did not finish within 01:00:00", device.Lines.Single(), StringComparison.Ordinal);
        Assert.Equal(DeviceMigrationState.Running, client.GetMigrationState());
        device.MayEnd.Set();
        client.SetMigrationState(DeviceMigrationState.Stop);
        client.SetMigrationState(DeviceMigrationState.Running);
    }

    [Fact]
    public void How_long_work_is_waited_for_has_limits()
    {
        TimeSpan most = TimeSpan.FromHours(1);
        foreach (TimeSpan wrong in new[] { TimeSpan.FromTicks(-1), Timeout.InfiniteTimeSpan, most + TimeSpan.FromTicks(1), TimeSpan.MaxValue })
            Assert.Throws<ArgumentOutOfRangeException>(() => new DeviceThatWorksLong { QuiesceWait = wrong });
        foreach (TimeSpan right in new[] { TimeSpan.Zero, most })
        {
            using var device = new DeviceThatWorksLong { QuiesceWait = right };
            Assert.Equal(right, device.QuiesceWait);
        }
    }

    private sealed class DeviceThatWorksLong : PciDevice
    {
        private volatile bool _asked;

        public DeviceThatWorksLong()
            : base(new PciDefinition { VendorId = 0x1234, DeviceId = 1, Bars = [new PciBar(0, 16)] }) => Log = Lines.Enqueue;

        public ManualResetEventSlim Began { get; } = new();

        public ManualResetEventSlim MayEnd { get; } = new();

        public ConcurrentQueue<string> Lines { get; } = new();

        protected override void ReadBar(int bar, ulong offset, Span<byte> destination)
        {
        }

        protected override void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> data)
        {
            _asked = true;
            RequestWork();
        }

        protected override void Work()
        {
            if (!_asked)
                return;
            Began.Set();
            MayEnd.Wait(TestServer.Patience);
        }

        protected override void Dispose(bool disposing)
        {
            base.Dispose(disposing);
            Began.Dispose();
            MayEnd.Dispose();
        }
    }

    private sealed class DeviceThatFails : PciDevice
    {
        public const uint Value = 0xFA11;
        private volatile bool _asked;

        public DeviceThatFails()
            : base(new PciDefinition { VendorId = 0x1234, DeviceId = 1, Bars = [new PciBar(0, 16)] }) => Log = _ => Failed.Set();

        public ManualResetEventSlim Failed { get; } = new();

        protected override void ReadBar(int bar, ulong offset, Span<byte> destination) => BinaryPrimitives.WriteUInt32LittleEndian(destination, Value);

        protected override void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> data)
        {
            _asked = true;
            RequestWork();
        }

        protected override void OnReset() => _asked = false;

        protected override void Work()
        {
            if (_asked)
                throw new InvalidOperationException("It cannot.");
        }

        protected override void Dispose(bool disposing)
        {
            base.Dispose(disposing);
            Failed.Dispose();
        }
    }
}
