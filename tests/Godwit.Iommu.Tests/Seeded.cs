namespace Godwit.Iommu.Tests;

/// <summary>Random runs that can be repeated: a failure is rethrown with its seed, and GODWIT_SEED runs that one seed alone.</summary>
internal static class Seeded
{
    internal static void Run(int runs, Action<Random> body)
    {
        string? only = Environment.GetEnvironmentVariable("GODWIT_SEED");
        int start = only is null ? Environment.TickCount & 0xFF_FFFF : int.Parse(only);
        TestContext.Current.TestOutputHelper?.WriteLine($"seeds {start} to {start + runs - 1}");
        for (int seed = start; seed < (only is null ? start + runs : start + 1); seed++)
        {
            try
            {
                body(new Random(seed));
            }
            catch (Exception exception)
            {
                throw new InvalidOperationException($"Failed with GODWIT_SEED={seed}: {exception.Message}", exception);
            }
        }
    }
}
