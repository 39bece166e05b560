namespace Godwit.Pci;

/// <summary>Kinds of base address register (PCI Local Bus 3.0, 6.2.5.1).</summary>
public enum BarKind
{
    /// <summary>32-bit memory.</summary>
    Memory32,

    /// <summary>64-bit memory, takes two registers.</summary>
    Memory64,
}
