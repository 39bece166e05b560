using Godwit.Machine;

namespace Godwit.Cli;

/// <summary>How the source reaches the destination in a demo.</summary>
internal enum DemoTransport
{
    /// <summary>A unix socket in the demo's folder.</summary>
    Unix,

    /// <summary>A TCP port of the loopback interface, chosen by the kernel.</summary>
    Tcp,
}

/// <summary>What <c>godwit demo</c> was asked to do.</summary>
internal sealed record DemoOptions
{
    /// <summary>Size of the disk: small enough that the guest reads each block several times, large enough not to fit a queue.</summary>
    public const ulong DiskBytes = 64UL << 20;

    public required ulong Memory { get; init; }

    public required TimeSpan RunFor { get; init; }

    /// <summary>MiB a second dirtied by the CPU.</summary>
    public required long DirtyRate { get; init; }

    /// <summary>Mapped buffers moved a second, besides the I/O.</summary>
    public required long Churn { get; init; }

    public required long QueueDepth { get; init; }

    public required IommuArgument Iommu { get; init; }

    public required int Vcpus { get; init; }

    /// <summary>Times a second that the guest's device changes its domain.</summary>
    public required long DomainSwitches { get; init; }

    /// <summary>The guest's option <c>tables</c>.</summary>
    public required string GuestTables { get; init; }

    public required TimeSpan DowntimeLimit { get; init; }

    public required ulong Bandwidth { get; init; }

    /// <summary>Ranges that the devices' logs take at once.</summary>
    public required long LogRanges { get; init; }

    /// <summary>Bytes that they take at once; 0 for no limit.</summary>
    public required ulong LogSpanMax { get; init; }

    public required DemoTransport Transport { get; init; }

    public required long Seed { get; init; }

    /// <summary>Least commands that the guest must complete during the migration for the run to count.</summary>
    public required long ExpectIo { get; init; }

    /// <summary>Least mappings made and withdrawn during the migration.</summary>
    public required long ExpectMappings { get; init; }

    /// <summary>Whether the device's DMA goes through page tables of the guest's.</summary>
    public bool Translates => Iommu is { Kind: IommuKind.Intel, Intel.DmaTranslation: true };

    /// <summary>Options of the guest. It is interrupted at the last vCPU.</summary>
    public IReadOnlyDictionary<string, string> GuestOptions => new Dictionary<string, string>(StringComparer.Ordinal)
    {
        ["queue-depth"] = $"{QueueDepth}",
        ["dirty-rate"] = $"{DirtyRate}",
        ["churn"] = $"{Churn}",
        ["seed"] = $"{Seed}",
        ["tables"] = GuestTables,
        ["domain-switches"] = $"{DomainSwitches}",
        ["irq-cpu"] = $"{Vcpus - 1}",
    };

    /// <summary>What both machines are, but for their device.</summary>
    public MachineConfig Machine => new()
    {
        MemoryBytes = Memory,
        Vcpus = Vcpus,
        Iommu = Iommu.Kind,
        Intel = Iommu.Intel,
        Guest = "nvme-stress",
        GuestOptions = GuestOptions,
    };

    /// <summary>A quarter of the time before the migration, and one after it; at least half is pre-copy.</summary>
    public TimeSpan Around => RunFor / 4;

    /// <summary>The shortest pre-copy.</summary>
    public TimeSpan Precopy => RunFor / 2;

    /// <summary>Whether the devices' logs are asked to be smaller than they are.</summary>
    public bool LimitsLog => LogRanges < 256 || LogSpanMax != 0;

    /// <summary>Pages of guest memory.</summary>
    public long Pages => (long)(Memory / 4096);
}
