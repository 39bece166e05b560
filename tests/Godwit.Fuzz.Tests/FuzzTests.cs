namespace Godwit.Fuzz.Tests;

/// <summary>Every target, bounded; see <see cref="FuzzRun.Inputs"/> for longer runs by hand.</summary>
public sealed class FuzzTests
{
    [Fact]
    public void Migration_stream() => FuzzRun.Execute<MigrationStreamTarget>();

    [Fact]
    public void Migration_frames() => FuzzRun.Execute<MigrationFramesTarget>();

    [Fact]
    public void Vtd() => FuzzRun.Execute<VtdTarget>();

    [Fact]
    public void Vtd_state() => FuzzRun.Execute<VtdStateTarget>();

    [Fact]
    public void Interrupt_remapping() => FuzzRun.Execute<InterruptTarget>();

    [Fact]
    public void Pci_config() => FuzzRun.Execute<PciConfigTarget>();

    /// <summary>A file that does not reach what its name says is no use to the mutations that begin with it.</summary>
    [Fact]
    public void Each_file_of_the_Vtd_corpus_reaches_what_it_is_for()
    {
        const uint QueueError = 1 << 4, TimeoutError = 1 << 6;
        foreach (string path in Directory.GetFiles(Path.Combine(AppContext.BaseDirectory, "corpus", VtdTarget.Name)))
        {
            VtdReach reach = VtdTarget.Observe(File.ReadAllBytes(path));
            string name = Path.GetFileNameWithoutExtension(path);
            bool reached = name switch
            {
                // Mapped, written through, unmapped; beyond the tables, the width and the canonical addresses (VT-d 7.1.3).
                "scalable-first-4" => reach is { Mapped: > 0, Live: 0, Writes: > 0 } && reach.Faults.IsSupersetOf([0x71, 0x80, 0x83]),
                "scalable-first-5" => reach is { Mapped: > 0, Live: 0, Writes: > 0 } && reach.Faults.IsSupersetOf([0x71, 0x83]),
                "scalable-second-4" or "scalable-second-5" => reach is { Mapped: > 0, Live: 0, Writes: > 0 } && reach.Faults.IsSupersetOf([0x79, 0x84]),
                "scalable-pass-through" => reach is { PassesThrough: true, Mapped: 0, Writes: > 0 },
                "scalable-nested" => reach.Faults.Contains(0x5B),
                "scalable-first-loop" => reach is { Mapped: > 10, Writes: > 0 } && reach.Faults.Contains(0x81), // and through context entries
                "scalable-loop-moved" => reach is { Mapped: > 10_000, Turns: > 3 },
                "queue-in-tables" => (reach.Status & QueueError) != 0,
                "table-modes" => reach.Faults.IsSupersetOf([0x30, 0x33]),
                "tables-elsewhere" => reach.Faults.IsSupersetOf([0x78, 0x7A]),
                "device-tlb-timeout" => (reach.Status & TimeoutError) != 0,
                _ => false, // say here what it is for
            };
            Assert.True(reached, $"{name}: {reach.Mapped} mapped, {reach.Live} live, {reach.Writes} writes, {reach.Turns} turns, FSTS 0x{reach.Status:x}, faults {string.Join(' ', reach.Faults.Select(fault => fault.ToString("x")))}");
        }
    }

    /// <summary>The engine itself must see a target that breaks.</summary>
    [Fact]
    public void A_broken_target_is_reported_with_its_input()
    {
        var failure = Assert.ThrowsAny<Exception>(FuzzRun.Execute<BrokenTarget>);
        Assert.Contains("broken broke on input", failure.Message, StringComparison.Ordinal);
    }

    private sealed class BrokenTarget : IFuzzTarget
    {
        public static string Name => "broken";

        public static IEnumerable<byte[]> Seeds() => [[1, 2, 3, 4]];

        public static void Run(ReadOnlySpan<byte> input)
        {
            if (input.Length > 5 && input[0] > input[5])
                throw new NotSupportedException("broken on purpose");
        }
    }
}
