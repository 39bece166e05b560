using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>The interrupt pin of a kernel device: raised by its eventfd, ended by the guest's CPU, unmasked.</summary>
public sealed class KernelPinTests : IDisposable
{
    private readonly FakeHost _host = new(new FakeDeviceTraits { Pin = 2 });

    public void Dispose() => _host.Dispose();

    [Fact]
    public void A_level_comes_again_until_the_device_lets_go()
    {
        using VfioPciFunction function = _host.Plug();
        Assert.Equal(2u, function.ReadConfig(0x3D, 1));
        Assert.Equal(_host.Input, function.InterruptInput);
        Assert.Contains(new KeyValuePair<string, string>($"vfio.{function.Id}.pin", "INTB#"), function.Describe());
        Assert.Null(_host.Device.EnabledIrq);
        FakeHost.Boot(function);
        Assert.Equal(PciIrq.Intx, _host.Device.EnabledIrq);
        _host.Device.SetPin(true);
        Assert.True(_host.TakeLevel());
        Assert.Equal(8u, function.ReadConfig(6, 2) & 8);
        Assert.True(_host.Device.PinMasked);
        _host.EndInterrupt(); // the driver has not served the device
        Assert.False(_host.TakeLevel());
        Assert.True(_host.TakeLevel());
        _host.Device.SetPin(false);
        _host.EndInterrupt();
        Assert.False(_host.TakeLevel());
        Assert.False(_host.Device.PinMasked);
        Assert.Empty(_host.Notices);
    }

    [Fact]
    public void What_is_signalled_before_the_end_of_another_is_not_lost_where_nothing_masks()
    {
        using var host = new FakeHost(new FakeDeviceTraits { Pin = 2, NeverMasks = true });
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        host.Device.SetPin(true);
        Assert.True(host.TakeLevel());
        host.Device.SetPin(true); // the driver has looked, and this comes before it says so
        function.SetRunning(false); // all that was signalled is delivered
        host.EndInterrupt();
        Assert.Equal(8u, function.ReadConfig(6, 2) & 8); // high for another interrupt
        host.EndInterrupt();
        Assert.False(host.TakeLevel());
        Assert.Empty(host.Levels);
    }

    [Fact]
    public void A_guest_that_takes_messages_or_switches_it_off_does_without()
    {
        using VfioPciFunction function = _host.Plug();
        FakeHost.Boot(function);
        function.WriteConfig(FakeVfioDevice.MsixAt + 2, 0x8000, 2);
        Assert.Equal(PciIrq.Msix, _host.Device.EnabledIrq);
        function.WriteConfig(FakeVfioDevice.MsixAt + 2, 0, 2);
        Assert.Equal(PciIrq.Intx, _host.Device.EnabledIrq);
        _host.Device.SetPin(true);
        Assert.True(_host.TakeLevel());
        function.WriteConfig(FakeVfioDevice.MsiAt + 2, 1, 2);
        Assert.False(_host.TakeLevel());
        Assert.Equal(PciIrq.Msi, _host.Device.EnabledIrq);
        function.WriteConfig(FakeVfioDevice.MsiAt + 2, 0, 2);
        Assert.True(_host.TakeLevel()); // it is high still
        function.WriteConfig(4, 6 | (1 << 10), 2);
        Assert.False(_host.TakeLevel());
        Assert.Null(_host.Device.EnabledIrq);
        function.WriteConfig(4, 4, 2); // nobody works it
        Assert.Null(_host.Device.EnabledIrq);
    }

    [Fact]
    public void What_it_signalled_before_a_reset_does_not_keep_it_masked()
    {
        using VfioPciFunction function = _host.Plug();
        FakeHost.Boot(function);
        _host.Device.SetPin(true);
        Assert.True(_host.TakeLevel());
        function.Reset();
        Assert.False(_host.TakeLevel());
        Assert.Null(_host.Device.EnabledIrq);
        FakeHost.Boot(function);
        Assert.False(_host.Device.PinMasked);
        _host.Device.SetPin(true);
        Assert.True(_host.TakeLevel());
    }

    [Fact]
    public void Loading_its_configuration_unmasks_it()
    {
        using VfioPciFunction function = _host.Plug();
        FakeHost.Boot(function);
        var state = new System.Buffers.ArrayBufferWriter<byte>();
        function.SaveState(state);
        _host.Device.SetPin(true);
        Assert.True(_host.TakeLevel());
        _host.Device.SetPin(false);
        function.LoadState(state.WrittenSpan);
        Assert.False(_host.Device.PinMasked);
    }

    [Fact]
    public void A_pin_that_the_host_refuses_or_that_stays_masked_is_told_once()
    {
        using VfioPciFunction function = _host.Plug();
        FakeHost.Boot(function);
        _host.Device.SetPin(true);
        Assert.True(_host.TakeLevel());
        _host.Kernel.Fault = (_host.Kernel.Trace.Count, Errno.EIO);
        _host.EndInterrupt();
        Assert.False(_host.TakeLevel());
        Assert.Contains("unmask", Assert.Single(_host.Notices), StringComparison.Ordinal);
        function.WriteConfig(4, 6 | (1 << 10), 2);
        _host.Kernel.Fault = (_host.Kernel.Trace.Count + 1, Errno.EBUSY); // the command register, then the interrupt
        function.WriteConfig(4, 6, 2);
        Assert.Null(_host.Device.EnabledIrq);
        Assert.Single(_host.Notices);
        Assert.DoesNotContain(function.QueryBlockers(1), blocker => blocker.Code == "device-refuses-interrupts"); // the guest may poll
    }

    [Fact]
    public void A_device_without_an_interrupt_for_its_pin_has_none()
    {
        using var host = new FakeHost();
        host.Device.Config[0x3D] = 1;
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        Assert.Equal(0u, function.ReadConfig(0x3D, 1));
        Assert.DoesNotContain(function.Describe(), e => e.Key.EndsWith(".pin", StringComparison.Ordinal));
        Assert.Null(host.Device.EnabledIrq);
    }
}
