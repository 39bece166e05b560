using System.Buffers.Binary;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>A device whose work throws says so by the error interrupt, answers nothing any more, and is whole again after a reset.</summary>
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
