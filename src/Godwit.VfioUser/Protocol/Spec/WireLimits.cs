namespace Godwit.VfioUser;

/// <summary>Every limit that parsing relies on, with where it comes from.</summary>
internal static class WireLimits
{
    /// <summary>Versions of the protocol spoken here (specification, "VFIO_USER_VERSION": major 0).</summary>
    public const ushort Major = 0;

    /// <summary>QEMU refuses a reply above minor 0.</summary>
    public const ushort Minor = 0;

    /// <summary>Default of max_data_xfer_size, and what is offered here (specification, "Capabilities").</summary>
    public const int MaxTransfer = 1024 * 1024;

    /// <summary>Smallest max_data_xfer_size worth talking to: one page. Own choice.</summary>
    public const int MinTransfer = 4096;

    /// <summary>
    /// Most data in one message that is sent from here. Peers that read a body with one recv call cannot take more than the default
    /// socket buffer of 208 KiB, whatever they negotiated.
    /// </summary>
    public const int SendChunk = 128 * 1024;

    /// <summary>Fixed part of a body at most, before its data: room for the largest request with a few ranges. Own choice.</summary>
    public const int MaxFixedBody = 8192;

    /// <summary>Largest body read from a peer.</summary>
    public const int MaxBody = MaxTransfer + MaxFixedBody;

    /// <summary>max_msg_fds offered here; QEMU refuses more than 16.</summary>
    public const int MaxMessageFds = 16;

    /// <summary>Default of max_msg_fds (specification, "Capabilities").</summary>
    public const int DefaultMessageFds = 1;

    /// <summary>Default of max_dma_maps (specification, "Capabilities"); QEMU refuses more.</summary>
    public const int DefaultDmaMaps = 65535;

    /// <summary>What is asked for here: a vIOMMU guest in lazy mode may hold more than the default. Bounds the server's table.</summary>
    public const int MaxDmaMaps = 1024 * 1024;

    /// <summary>pgsizes: DMA mappings are multiples of this (specification, "Capabilities").</summary>
    public const ulong PageSize = 4096;

    /// <summary>Longest JSON text of VERSION; real ones are about 200 bytes. Own choice.</summary>
    public const int MaxVersionJson = 4096;

    /// <summary>Most bytes of region capabilities accepted. Own choice: 1000 sparse areas.</summary>
    public const int MaxRegionInfo = 16 * 1024;

    /// <summary>Most capabilities in a region's chain, against loops. Own choice.</summary>
    public const int MaxCapabilities = 16;

    /// <summary>Most bytes of DEVICE_GET_REGION_IO_FDS accepted. Own choice: 5461 entries of 48 bytes, more than NVMe can have doorbells in 16 KiB.</summary>
    public const int MaxIoFds = 256 * 1024;

    /// <summary>Most shared memory mapped for the values of region writes. Own choice.</summary>
    public const ulong MaxShadow = 1024 * 1024;

    /// <summary>Most regions and interrupts of a device; the numbers of QEMU's client.</summary>
    public const int MaxRegions = 100;

    /// <inheritdoc cref="MaxRegions"/>
    public const int MaxIrqs = 50;

    /// <summary>Most vectors of one interrupt index (PCI Express base specification 7.7.2: MSI-X table size field of 11 bits).</summary>
    public const int MaxVectors = 2048;

    /// <summary>Most ranges in DMA_LOGGING_START (drivers/vfio/vfio_main.c, LOG_MAX_RANGES).</summary>
    public const int MaxLogRanges = 256;
}
