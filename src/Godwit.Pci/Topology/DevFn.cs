namespace Godwit.Pci;

/// <summary>A device number and function number: devfn = device &lt;&lt; 3 | function (PCI Express 5.0, 2.2.6.2).</summary>
public readonly record struct DevFn(byte Value)
{
    /// <summary>From device 0-31 and function 0-7.</summary>
    /// <exception cref="ArgumentOutOfRangeException">One of them is outside its range.</exception>
    public DevFn(int device, int function) : this(Compose(device, function)) { }

    /// <summary>0-31.</summary>
    public int Device => Value >> 3;

    /// <summary>0-7.</summary>
    public int Function => Value & 7;

    /// <inheritdoc/>
    public override string ToString() => $"{Device:x2}.{Function}";

    private static byte Compose(int device, int function)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)device, 31u, nameof(device));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)function, 7u, nameof(function));
        return (byte)((device << 3) | function);
    }
}
