namespace Godwit.Pci;

/// <content>The four inputs that interrupt pins lead to.</content>
public sealed partial class PciHostBridge
{
    /// <summary>Inputs there are, which all pins share.</summary>
    public const int InterruptInputs = 4;

    private readonly Lock _inputsChanging = new();
    private readonly int[] _drivers = new int[InterruptInputs];
    private Action<int, bool>? _inputs;
    private PciFunction[] _pins = [];

    /// <summary>
    /// Connects the inputs to the board's interrupt controller. <paramref name="set"/> is called with an input and its level when that changes, in
    /// order, under a lock: it must not lead back here.
    /// </summary>
    public void ConnectInputs(Action<int, bool> set)
    {
        ArgumentNullException.ThrowIfNull(set);
        lock (_inputsChanging)
            _inputs = set;
    }

    /// <summary>A CPU has handled an interrupt of an input. Whoever drives it hears of that, then it has the level of those who still do.</summary>
    public void EndInterrupt(int input)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)input, (uint)InterruptInputs, nameof(input));
        foreach (PciFunction function in Volatile.Read(ref _pins))
        {
            if (function.IsPinDriven && function.InterruptInput == input)
                function.OnInterruptEnded();
        }

        lock (_inputsChanging)
            _inputs?.Invoke(input, _drivers[input] > 0);
    }

    /// <summary>Raises every input that somebody drives: for an interrupt controller whose state has been loaded, that of another machine.</summary>
    public void RaiseInputs()
    {
        lock (_inputsChanging)
        {
            for (int input = 0; input < InterruptInputs; input++)
            {
                if (_drivers[input] > 0)
                    _inputs?.Invoke(input, true);
            }
        }
    }

    /// <summary>A function with a pin was plugged.</summary>
    internal void AddPin(PciFunction function) => Volatile.Write(ref _pins, [.. _pins, function]);

    /// <summary>One pin more or less drives an input.</summary>
    internal void Drive(int input, bool high)
    {
        lock (_inputsChanging)
        {
            int before = _drivers[input];
            _drivers[input] = high ? before + 1 : before - 1;
            if (before == 0 || _drivers[input] == 0)
                _inputs?.Invoke(input, high);
        }
    }
}
