using System.Text;

namespace Godwit.Iommu.Tests;

/// <summary>
/// Random runs that can be repeated: a failure is rethrown with its seed and with the least that still fails, and GODWIT_SEED runs that one seed alone.
/// </summary>
internal static class Seeded
{
    internal static void Run(int runs, Action<Choices> body)
    {
        string? only = Environment.GetEnvironmentVariable("GODWIT_SEED");
        int start = only is null ? Environment.TickCount & 0xFF_FFFF : int.Parse(only);
        TestContext.Current.TestOutputHelper?.WriteLine($"seeds {start} to {start + runs - 1}");
        for (int seed = start; seed < (only is null ? start + runs : start + 1); seed++)
        {
            var choices = new Choices(seed);
            try
            {
                body(choices);
            }
            catch (Exception exception)
            {
                throw new InvalidOperationException(Explain(seed, choices, exception, choices.Reduce(body)), exception);
            }
        }
    }

    private static string Explain(int seed, Choices choices, Exception exception, (Choices Choices, Exception Failure)? least)
    {
        var text = new StringBuilder($"Failed with GODWIT_SEED={seed}: {exception.Message}");
        if (least is not { } found)
            return text.AppendLine().Append("It does not fail with the same choices again.").ToString();
        text.AppendLine().Append($"The least that fails, {found.Choices.Count} of {choices.Count} choices: {found.Failure.Message}");
        foreach (string note in found.Choices.Notes)
            text.AppendLine().Append("  ").Append(note);
        return text.ToString();
    }
}
