using Godwit.Machine.Guests.Drivers;

namespace Godwit.Machine.Guests.Stress;

/// <summary>What an I/O buffer's unmapping waits for.</summary>
internal enum MapMode : uint
{
    /// <summary>Each unmap is invalidated, and waited for, before its buffer is looked at.</summary>
    Strict,

    /// <summary>Unmaps are collected and invalidated together; their IOVAs are used again only afterwards.</summary>
    Lazy,
}

/// <summary>How the guest uses its vIOMMU, if it has one.</summary>
internal enum IommuMode : uint
{
    /// <summary>Every device gets a domain of its own.</summary>
    Translate,

    /// <summary>Translation is on, devices have pass-through contexts.</summary>
    PassThrough,

    /// <summary>The unit is left alone.</summary>
    Off,
}

/// <summary>The options of <c>nvme-stress</c>, as numbers.</summary>
internal readonly record struct StressOptions
{
    public const int MaxQueueDepth = 1023;
    public const long MaxIoSize = 1 << 20;
    public const long MaxRegion = 16L << 30;
    public const int BlockSize = 4096;

    public static IReadOnlyList<GuestOption> Definitions { get; } =
    [
        new("queue-depth", "32", "I/O commands in flight on each controller") { Min = 1, Max = MaxQueueDepth },
        new("io-size", "64K", "largest I/O; sizes are multiples of 4K up to this") { Min = BlockSize, Max = MaxIoSize, Granularity = BlockSize },
        new("read-percent", "50", "share of reads among the commands") { Max = 100 },
        new("region", "64M", "bytes used from the start of each disk, or the whole disk when it is smaller")
            { Min = 1 << 20, Max = MaxRegion, Granularity = BlockSize },
        new("io-rate", "0", "I/O commands a second on each controller; 0 for as many as go") { Max = 10_000_000 },
        new("map", "strict", "strict invalidates each unmap at once, lazy in batches") { Choices = ["strict", "lazy"] },
        new("iommu", "translate", "use of the vIOMMU: translate, passthrough or off") { Choices = ["translate", "passthrough", "off"] },
        new("tables", "second", "page tables of a vIOMMU with scalable mode: second or first stage, or legacy mode") { Choices = ["second", "first", "legacy"] },
        new("domain-switches", "0", "times a second that a device changes its domain: one, another, pass-through") { Max = 1000 },
        new("intremap", "on", "whether interrupts go through the vIOMMU's remapping, if it has that: on or off") { Choices = ["on", "off"] },
        new("irq-cpu", "0", "APIC id of the vCPU that the devices interrupt") { Max = MachineConfig.MaxVcpus - 1 },
        new("irq-moves", "0", "times a second that the interrupts are moved between vCPU 0 and irq-cpu; needs remapping") { Max = 10_000 },
        new("churn", "1000", "mapped buffers moved to other pages, a second, besides the I/O") { Max = 1_000_000 },
        new("dirty-rate", "64", "MiB of memory dirtied by the CPU a second") { Max = 1 << 20 },
        new("working-set", "16M", "memory that the CPU dirties") { Max = 1L << 40, Granularity = BlockSize },
        new("disk", "required", "required panics without an NVMe device, optional dirties memory alone then") { Choices = ["required", "optional"] },
        new("seed", "1", "seed of all that is random and of the patterns"),
    ];

    public int QueueDepth { get; init; }

    /// <summary>Largest I/O in blocks of 4 KiB.</summary>
    public int MaxBlocks { get; init; }

    public int ReadPercent { get; init; }

    public ulong RegionBlocks { get; init; }

    public ulong IoRate { get; init; }

    public MapMode Map { get; init; }

    public IommuMode Iommu { get; init; }

    public TableKind Tables { get; init; }

    public ulong DomainSwitches { get; init; }

    public bool RemapInterrupts { get; init; }

    public int InterruptCpu { get; init; }

    public ulong InterruptMoves { get; init; }

    public ulong Churn { get; init; }

    /// <summary>MiB a second.</summary>
    public ulong DirtyRate { get; init; }

    public ulong WorkingSetPages { get; init; }

    public bool NeedsDisk { get; init; }

    public ulong Seed { get; init; }

    /// <summary>From a command line of words <c>option=value</c>; absent options have their defaults.</summary>
    /// <exception cref="ArgumentException">It holds something else.</exception>
    public static StressOptions Parse(string commandLine)
    {
        IReadOnlyDictionary<string, long> values = GuestOption.ParseLine(Definitions, commandLine);
        return new StressOptions
        {
            QueueDepth = (int)values["queue-depth"],
            MaxBlocks = (int)(values["io-size"] / BlockSize),
            ReadPercent = (int)values["read-percent"],
            RegionBlocks = (ulong)(values["region"] / BlockSize),
            IoRate = (ulong)values["io-rate"],
            Map = (MapMode)values["map"],
            Iommu = (IommuMode)values["iommu"],
            Tables = (TableKind)values["tables"],
            DomainSwitches = (ulong)values["domain-switches"],
            RemapInterrupts = values["intremap"] == 0, // the index among the words
            InterruptCpu = (int)values["irq-cpu"],
            InterruptMoves = (ulong)values["irq-moves"],
            Churn = (ulong)values["churn"],
            DirtyRate = (ulong)values["dirty-rate"],
            WorkingSetPages = (ulong)(values["working-set"] / BlockSize),
            NeedsDisk = values["disk"] == 0, // the index among the words
            Seed = (ulong)values["seed"],
        };
    }
}
