using Godwit.Memory;

namespace Godwit.Machine.Guests.Edu;

/// <summary>The options of <c>edu-stress</c>, as numbers.</summary>
internal readonly record struct EduOptions
{
    public const int MaxPages = 8192;

    public static IReadOnlyList<GuestOption> Definitions { get; } =
    [
        new("pages", "512", "pages of memory that the device copies among") { Min = 2, Max = MaxPages },
        new("unmap-percent", "10", "share of the transfers to memory whose page is unmapped while they go on") { Max = 100 },
        new("pin", "0", "1: interrupts come by the device's pin and the I/O APIC, instead of by MSI") { Max = 1 },
        new("resets", "0", "1: a device that was reset by whoever runs the machine is set up again, instead of counting as one that loses its work") { Max = 1 },
        new("seed", "1", "seed of all that is random and of the patterns"),
    ];

    public uint Pages { get; init; }

    public uint UnmapPercent { get; init; }

    public bool UsesPin { get; init; }

    public bool BearsResets { get; init; }

    public ulong Seed { get; init; }

    /// <summary>Bytes of the heap: pages, what they hold, tables, IOVA bitmaps, the unit's structures.</summary>
    public ulong HeapBytes => ((ulong)Pages * (RamPage.Size + sizeof(ulong))) + (1UL << 20);

    /// <summary>From a command line of words <c>option=value</c>; absent options have their defaults.</summary>
    /// <exception cref="ArgumentException">It holds something else.</exception>
    public static EduOptions Parse(string commandLine)
    {
        IReadOnlyDictionary<string, long> values = GuestOption.ParseLine(Definitions, commandLine);
        return new EduOptions
        {
            Pages = (uint)values["pages"],
            UnmapPercent = (uint)values["unmap-percent"],
            UsesPin = values["pin"] != 0,
            BearsResets = values["resets"] != 0,
            Seed = (ulong)values["seed"],
        };
    }

    /// <summary>Host side: whether the program will find room below 4 GiB, and below what the device can reach.</summary>
    /// <exception cref="ArgumentException">The machine's memory is too small.</exception>
    public void Check(in BoardLayout layout)
    {
        ulong low = layout.LowRamSize - EduLayout.Heap.Value;
        if (HeapBytes > low)
            throw new ArgumentException($"Guest edu-stress needs {HeapBytes >> 20} MiB below 4 GiB; there are {low >> 20}. Take more memory or fewer pages.");
    }
}
