namespace Godwit.Pci;

/// <summary>Device/Port Type of the PCI Express capability (PCI Express 5.0, 7.5.3.2).</summary>
public enum ExpressPortType
{
    /// <summary>An endpoint behind a port.</summary>
    Endpoint = 0,

    /// <summary>A root port.</summary>
    RootPort = 4,

    /// <summary>A bridge from PCI Express to conventional PCI.</summary>
    ExpressToPciBridge = 7,

    /// <summary>An endpoint on a root bus.</summary>
    RootComplexEndpoint = 9,
}
