namespace Godwit.Fuzz.Tests;

/// <summary>Every target, bounded; see <see cref="FuzzRun.Inputs"/> for longer runs by hand.</summary>
public sealed class FuzzTests
{
    [Fact]
    public void Migration_stream() => FuzzRun.Execute<MigrationStreamTarget>();

    [Fact]
    public void Vtd() => FuzzRun.Execute<VtdTarget>();

    [Fact]
    public void Vtd_state() => FuzzRun.Execute<VtdStateTarget>();

    [Fact]
    public void Interrupt_remapping() => FuzzRun.Execute<InterruptTarget>();

    [Fact]
    public void Pci_config() => FuzzRun.Execute<PciConfigTarget>();

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
