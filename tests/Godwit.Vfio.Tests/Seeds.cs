namespace Godwit.Vfio.Tests;

/// <summary>Seeded property runs: every failure names its seed.</summary>
internal static class Seeds
{
    /// <summary>Runs <paramref name="property"/> for seeds 0 to <paramref name="count"/> - 1.</summary>
    public static void ForEach(int count, Action<Random> property)
    {
        for (int seed = 0; seed < count; seed++)
        {
            try
            {
                property(new Random(seed));
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"Seed {seed}: {e.Message}", e);
            }
        }
    }
}
