namespace Godwit.Memory.Tests;

/// <summary>Where another thread could come between the steps of a bitmap (Dirty/Variants/Stepped.variant).</summary>
internal enum BitmapStep
{
    BlockRead,
    BitsSet,
    SummarySet,
    BlockTaken,
    WordsTaken,
    WordSeen,
}

/// <summary>Lets a test do at a step what another thread would do there.</summary>
internal static class BitmapSteps
{
    [ThreadStatic]
    private static (BitmapStep Step, Action Action)? s_other;

    /// <summary>Does <paramref name="other"/> once, the first time that <paramref name="action"/> comes to <paramref name="step"/>; false: it never does.</summary>
    public static bool Interrupt(BitmapStep step, Action action, Action other)
    {
        s_other = (step, other);
        action();
        bool came = s_other is null;
        s_other = null;
        return came;
    }

    /// <summary>Called by the variants.</summary>
    public static void At(BitmapStep step)
    {
        if (s_other is not { } other || other.Step != step)
            return;
        s_other = null;
        other.Action();
    }
}
