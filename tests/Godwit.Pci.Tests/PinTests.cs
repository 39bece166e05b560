using System.Buffers;

namespace Godwit.Pci.Tests;

/// <summary>Interrupt pins: where they lead, whose level an input has, and what switches them off.</summary>
public sealed class PinTests
{
    private readonly Board _board = new();
    private readonly List<(int Input, bool High)> _changes = [];

    public PinTests() => _board.Host.ConnectInputs((input, high) => _changes.Add((input, high)));

    [Theory]
    [InlineData(0, 1, 0)]
    [InlineData(3, 1, 3)]
    [InlineData(3, 4, 2)]
    [InlineData(31, 2, 0)]
    public void A_pin_on_the_root_bus_is_turned_by_its_device_number(int device, int pin, int input)
    {
        // device 0 is the host bridge's; its other functions are free
        var function = new PinFunction("f", pin);
        _board.Host.RootBus.Attach(function, new DevFn(device, 1));
        Assert.Equal((uint)pin, function.ReadConfig(0x3D, 1));
        Assert.Equal(input, function.InterruptInput);
    }

    [Fact]
    public void Every_bridge_turns_it_once_more()
    {
        var port = new PciBridge("port", PciBridgeKind.RootPort);
        _board.Host.RootBus.Attach(port, new DevFn(2, 0));
        var conventional = new PciBridge("pci", PciBridgeKind.ExpressToPci);
        port.Secondary.Attach(conventional, new DevFn(0, 0));
        var function = new PinFunction("f", pin: 2);
        conventional.Secondary.Attach(function, new DevFn(5, 0));
        Assert.Equal((1 + 5 + 0 + 2) % 4, function.InterruptInput);
        function.Want(true);
        Assert.Equal([(0, true)], _changes);
    }

    [Fact]
    public void An_input_is_high_while_anybody_drives_it()
    {
        PinFunction a = Plug(3), b = Plug(7), c = Plug(4);
        a.Want(true);
        a.Want(true);
        b.Want(true);
        c.Want(true);
        a.Want(false);
        Assert.Equal([(3, true), (0, true)], _changes);
        b.Want(false);
        Assert.Equal((3, false), _changes[^1]);
        Assert.Equal(3, _changes.Count);
    }

    [Fact]
    public void The_guest_may_switch_it_off_and_still_sees_its_status()
    {
        PinFunction function = Plug(3);
        Assert.Equal(0u, function.ReadConfig(6, 2));
        function.WriteConfig(4, 1 << 10, 2);
        function.Want(true);
        Assert.Empty(_changes);
        Assert.Equal(1u << 3, function.ReadConfig(6, 2) & 8);
        Assert.Equal(1u << 19, function.ReadConfig(4, 4) & (1 << 19));
        Assert.Equal(8u, function.ReadConfig(6, 1) & 8);
        Assert.Equal(0u, function.ReadConfig(7, 1) & 8);
        Assert.Equal(0u, function.ReadConfig(8, 4) & 8);
        function.WriteConfig(4, 0, 2);
        function.WriteConfig(4, 1 << 10, 2);
        Assert.Equal([(3, true), (3, false)], _changes);
        function.WriteConfig(4, 0, 2);
        function.Reset();
        Assert.Equal((3, false), _changes[^1]);
        Assert.Equal(0u, function.ReadConfig(6, 2) & 8);
    }

    [Fact]
    public void The_end_of_an_interrupt_reaches_those_who_drive_its_input()
    {
        PinFunction a = Plug(3), b = Plug(7), other = Plug(4), idle = Plug(11);
        a.Want(true);
        b.Want(true);
        other.Want(true);
        a.OnEnd = () => a.Want(false);
        _changes.Clear();
        _board.Host.EndInterrupt(3);
        Assert.Equal((1, 1, 0, 0), (a.Ends, b.Ends, other.Ends, idle.Ends));
        Assert.Equal([(3, true)], _changes); // the other one's
        b.OnEnd = () => b.Want(false);
        _board.Host.EndInterrupt(3);
        Assert.Equal((1, 2), (a.Ends, b.Ends));
        Assert.Equal((3, false), _changes[^1]);
        Assert.Throws<ArgumentOutOfRangeException>(() => _board.Host.EndInterrupt(4));
    }

    [Fact]
    public void A_controller_whose_state_was_loaded_hears_of_what_is_driven_now()
    {
        PinFunction a = Plug(3);
        a.Want(true);
        _changes.Clear();
        _board.Host.RaiseInputs();
        Assert.Equal([(3, true)], _changes);
    }

    [Fact]
    public void Whether_it_wants_an_interrupt_is_no_part_of_its_state()
    {
        PinFunction source = Plug(3), destination = Plug(4);
        source.Want(true);
        source.WriteConfig(0x3C, 19, 1);
        var state = new ArrayBufferWriter<byte>();
        source.SaveState(state);
        destination.LoadState(state.WrittenSpan);
        Assert.Equal(19u, destination.ReadConfig(0x3C, 1));
        Assert.Equal(0u, destination.ReadConfig(6, 2) & 8);
        Assert.Equal([(3, true)], _changes);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    public void There_are_four_pins(int pin) => Assert.Throws<ArgumentOutOfRangeException>(() => new PinFunction("f", pin));

    private PinFunction Plug(int device)
    {
        var function = new PinFunction($"f{device}", 1);
        _board.Host.RootBus.Attach(function, new DevFn(device, 0));
        return function;
    }

    private sealed class PinFunction : PciFunction
    {
        internal PinFunction(string name, int pin) : base(name)
        {
            SetIdentity(0x1234, 0x11E8, 0xFF_00_00);
            SetInterruptPin(pin);
        }

        internal int Ends { get; private set; }

        internal Action? OnEnd { get; set; }

        internal void Want(bool wanted) => SetInterrupt(wanted);

        protected internal override void OnInterruptEnded()
        {
            Ends++;
            OnEnd?.Invoke();
        }
    }
}
