using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>DEVICE_SET_IRQS with eventfds for masking and unmasking (specification, "VFIO_USER_DEVICE_SET_IRQS"; linux/vfio.h for INTx).</summary>
public sealed class MaskEventTests : IDisposable
{
    private readonly TestServer _server = new();
    private readonly VfioUserClient _client;
    private readonly IDeviceHost _host;
    private readonly EventFd _trigger = EventFd.Create();
    private readonly EventFd _masked = EventFd.Create();
    private readonly EventFd _unmasked = EventFd.Create();

    public MaskEventTests() => _client = _server.Connect(out _host);

    public void Dispose()
    {
        _client.Dispose();
        _server.Dispose();
        _trigger.Dispose();
        _masked.Dispose();
        _unmasked.Dispose();
    }

    [Theory]
    [InlineData(PciIrq.Msix, 5)]
    [InlineData(PciIrq.Intx, 0)]
    public void Masking_and_unmasking_by_the_client_is_told_once_each(int index, int vector)
    {
        Assign(index, vector);
        AssertSignals(0, 0, 0);
        _client.MaskIrq(index, vector, 1, masked: false); // as it is
        AssertSignals(0, 0, 0);
        _client.MaskIrq(index, vector, 1, masked: true);
        AssertSignals(0, 1, 0);
        _client.MaskIrq(index, vector, 1, masked: true);
        AssertSignals(0, 0, 0);
        _host.Trigger(index, vector);
        AssertSignals(0, 0, 0);
        _client.MaskIrq(index, vector, 1, masked: false);
        AssertSignals(1, 0, 1);
        _client.SetIrqMaskEventFds(index, vector, masked: true, [null]);
        _client.SetIrqMaskEventFds(index, vector, masked: false, [null]);
        _client.MaskIrq(index, vector, 1, masked: true);
        _client.MaskIrq(index, vector, 1, masked: false);
        AssertSignals(0, 0, 0);
        Assign(index, vector);
        _client.DisableIrqs(index);
        _client.MaskIrq(index, vector, 1, masked: true);
        AssertSignals(0, 0, 0);
    }

    [Fact]
    public void A_level_that_masks_itself_tells_so()
    {
        Assign(PciIrq.Intx, 0);
        _host.SetPin(true);
        AssertSignals(1, 1, 0);
        _host.SetPin(false);
        _client.MaskIrq(PciIrq.Intx, 0, 1, masked: false);
        AssertSignals(0, 0, 1);
    }

    /// <summary>As KVM does at the end of an interrupt: it signals what the device was given for unmasking.</summary>
    [Fact]
    public void Who_signals_the_eventfd_of_unmasking_ends_the_levels_own_masking()
    {
        _client.SetIrqEventFds(PciIrq.Intx, 0, [_trigger]);
        _client.SetIrqMaskEventFds(PciIrq.Intx, 0, masked: false, [_unmasked]);
        for (int i = 0; i < 100; i++)
        {
            _host.SetPin(true);
            Await(_trigger);
            Assert.True(_unmasked.Signal()); // still asserted: told once more
            Await(_trigger);
            _host.SetPin(false);
            Assert.True(_unmasked.Signal());
            // Whether that was seen before the next level or not, the level comes.
        }
    }

    /// <summary>What the client has masked by message stays so whatever is signalled.</summary>
    [Fact]
    public void No_signal_unmasks_what_the_client_has_masked()
    {
        _client.SetIrqEventFds(PciIrq.Intx, 0, [_trigger]);
        _client.SetIrqMaskEventFds(PciIrq.Intx, 0, masked: false, [_unmasked]);
        _client.MaskIrq(PciIrq.Intx, 0, 1, masked: true);
        _host.SetPin(true);
        Assert.True(_unmasked.Signal());
        _client.SetIrqMaskEventFds(PciIrq.Intx, 0, masked: false, [null]); // when it is answered, nobody listens any more
        Assert.Equal(0ul, _trigger.Drain());
        _client.MaskIrq(PciIrq.Intx, 0, 1, masked: false);
        Assert.Equal(1ul, _trigger.Drain());
    }

    [Fact]
    public void Descriptors_and_threads_go_with_them()
    {
        Assign(PciIrq.Intx, 0);
        _client.DisableIrqs(PciIrq.Intx);
        int open = OpenFiles.Count();
        for (int i = 0; i < 50; i++)
        {
            Assign(PciIrq.Intx, 0);
            Assign(PciIrq.Msix, 3);
            _client.DisableIrqs(PciIrq.Intx);
            _client.DisableIrqs(PciIrq.Msix);
        }
        OpenFiles.AssertReturnsTo(open);
    }

    private void Assign(int index, int vector)
    {
        _client.SetIrqEventFds(index, vector, [_trigger]);
        _client.SetIrqMaskEventFds(index, vector, masked: true, [_masked]);
        _client.SetIrqMaskEventFds(index, vector, masked: false, [_unmasked]);
    }

    private void AssertSignals(ulong trigger, ulong masked, ulong unmasked) =>
        Assert.Equal((trigger, masked, unmasked), (_trigger.Drain(), _masked.Drain(), _unmasked.Drain()));

    private static void Await(EventFd fd) => Assert.True(SpinWait.SpinUntil(() => fd.Drain() != 0, TestServer.Patience), "no signal came");
}
