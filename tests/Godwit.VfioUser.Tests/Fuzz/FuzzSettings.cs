using System.Globalization;

namespace Godwit.VfioUser.Tests;

/// <summary>How much is fuzzed, and from which seed; what is said in docs/develop.md.</summary>
internal static class FuzzSettings
{
    /// <summary>What the process may have grown by after all damaged messages; one message may take a megabyte.</summary>
    private const long MaxGrowth = 32 << 20;

    /// <summary>Damaged messages: few enough for every test run, or <c>GODWIT_FUZZ_INPUTS</c>.</summary>
    public static int Inputs(int usual) => Setting("GODWIT_FUZZ_INPUTS", usual);

    /// <summary>A new one for every run, or <c>GODWIT_FUZZ_SEED</c>. Told to the test's output.</summary>
    public static int Seed()
    {
        int seed = Setting("GODWIT_FUZZ_SEED", Environment.TickCount);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        return seed;
    }

    /// <summary>Fails the test when managed memory has grown since <paramref name="before"/> was <see cref="Memory"/>.</summary>
    public static void AssertNotGrown(long before)
    {
        long now = Memory();
        Assert.True(now - before < MaxGrowth, $"memory has grown from {before} to {now} bytes");
    }

    /// <summary>Managed memory in use.</summary>
    public static long Memory() => GC.GetTotalMemory(forceFullCollection: true);

    private static int Setting(string name, int usual) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } text ? int.Parse(text, CultureInfo.InvariantCulture) : usual;
}
