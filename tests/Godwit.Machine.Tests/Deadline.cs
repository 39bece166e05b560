namespace Godwit.Machine.Tests;

/// <summary>How long a test waits for something that must happen; passes only when it does not.</summary>
internal static class Deadline
{
    public static TimeSpan Generous { get; } = TimeSpan.FromSeconds(60);

    public static void Wait(this SemaphoreSlim signal, string what) => Assert.True(signal.Wait(Generous), $"Waited {Generous} for {what}.");
}
