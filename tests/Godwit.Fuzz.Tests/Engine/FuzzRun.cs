using System.Diagnostics;
using System.Globalization;

namespace Godwit.Fuzz.Tests;

/// <summary>Runs one target over its corpus and mutations of it, and writes down an input that breaks it.</summary>
public static class FuzzRun
{
    /// <summary>
    /// Inputs per target: <c>GODWIT_FUZZ_INPUTS</c>, or few enough for every test run. By hand:
    /// <c>GODWIT_FUZZ_INPUTS=5000000 GODWIT_FUZZ_SEED=7 dotnet test tests/Godwit.Fuzz.Tests</c>.
    /// </summary>
    public static int Inputs => Setting("GODWIT_FUZZ_INPUTS", 4000);

    /// <summary><c>GODWIT_FUZZ_SEED</c>, printed with every finding.</summary>
    public static int Seed => Setting("GODWIT_FUZZ_SEED", 1);

    /// <summary>Feeds the corpus as it is, then mutations. Fails on the first exception or on an input slower than 10 s.</summary>
    public static void Execute<TTarget>() where TTarget : IFuzzTarget
    {
        List<byte[]> pool = [.. TTarget.Seeds()];
        string folder = Path.Combine(AppContext.BaseDirectory, "corpus", TTarget.Name);
        if (Directory.Exists(folder))
            pool.AddRange(Directory.GetFiles(folder).Order(StringComparer.Ordinal).Select(File.ReadAllBytes));
        Assert.NotEmpty(pool);
        foreach (byte[] input in pool)
            Feed<TTarget>(input, -1);
        var mutator = new Mutator(Seed);
        for (int i = 0; i < Inputs; i++)
            Feed<TTarget>(mutator.Next(pool), i);
        TestContext.Current.TestOutputHelper?.WriteLine($"{TTarget.Name}: {pool.Count} corpus inputs and {Inputs} mutations, seed {Seed}");
    }

    private static void Feed<TTarget>(byte[] input, int number) where TTarget : IFuzzTarget
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            TTarget.Run(input);
        }
        catch (Exception finding)
        {
            string path = Path.Combine(Path.GetTempPath(), $"godwit-fuzz-{TTarget.Name}-{Seed}-{number}.bin");
            File.WriteAllBytes(path, input);
            Assert.Fail($"{TTarget.Name} broke on input {number} of seed {Seed} ({input.Length} bytes, kept as {path}): {finding}");
        }

        // Bounded work per input is part of the contract; the bound is far above what a loaded machine needs.
        Assert.True(Stopwatch.GetElapsedTime(start) < TimeSpan.FromSeconds(10), $"{TTarget.Name} took over 10 s on input {number} of seed {Seed}");
    }

    private static int Setting(string name, int fallback) =>
        int.TryParse(Environment.GetEnvironmentVariable(name), CultureInfo.InvariantCulture, out int value) && value > 0 ? value : fallback;
}
