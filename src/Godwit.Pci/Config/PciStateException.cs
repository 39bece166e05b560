namespace Godwit.Pci;

/// <summary>State from a migration stream that this function cannot take.</summary>
public sealed class PciStateException : IOException
{
    /// <summary>State of the wrong form: a version, a length.</summary>
    public PciStateException(string function, string problem) : base($"PCI state of {function}: {problem}") => Function = function;

    /// <summary>A read-only byte that differs.</summary>
    public PciStateException(string function, int offset, byte incoming, byte own, byte comparedBits)
        : base($"PCI state of {function}: the byte at 0x{offset:x3} of configuration space is 0x{incoming:x2} in the stream and 0x{own:x2} here; "
            + $"bits 0x{comparedBits:x2} cannot change and must be equal")
    {
        Function = function;
        Offset = offset;
        Incoming = incoming;
        Own = own;
    }

    /// <summary>Name of the function.</summary>
    public string Function { get; }

    /// <summary>The byte that differs, or null.</summary>
    public int? Offset { get; }

    /// <summary>Its value in the stream.</summary>
    public byte Incoming { get; }

    /// <summary>Its value here.</summary>
    public byte Own { get; }
}
