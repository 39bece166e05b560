using Godwit.Iommu.Intel.Interrupts;

namespace Godwit.Iommu.Tests;

/// <summary>What threads of <see cref="InterruptEntryCache"/> and its user do one at a time (Interrupts/Variants/Stepped.variant).</summary>
internal enum CacheStep
{
    TurnRead,
    Counted,
    TurnChecked,
    SlotRead,
    SlotKept,
    GenerationRead,
    SlotTakenBack,
    GenerationGrown,
    SlotForgotten,
    TurnTaken,
    UsersGone,
    EntryRead,
    EntryWritten,
    Delivered,
}

/// <summary>A copy of the cache whose steps can be told apart. Variants have no type in common but this.</summary>
internal interface ISteppedCache
{
    /// <summary>All that threads share in it, for index 0.</summary>
    string State { get; }

    int Generation { get; }

    int Enter();

    void Exit(int turn);

    bool TryGet(int index, out InterruptTableEntry entry);

    void Add(int index, in InterruptTableEntry entry, int generation);

    void Invalidate(int first, int last);
}

/// <summary>Where a thread waits until it is its turn: before each step. Other threads pass.</summary>
internal static class CacheSteps
{
    [ThreadStatic]
    private static Interleaving.Actor? s_actor;

    /// <summary>Does <paramref name="body"/> with the steps of this thread decided by others.</summary>
    public static void Run(Interleaving.Actor actor, Action body)
    {
        s_actor = actor;
        try
        {
            body();
        }
        finally
        {
            s_actor = null;
        }
    }

    public static void At(CacheStep step) => s_actor?.Await(step, null);

    /// <summary>A wait in a loop is one step, which is not to be made before <paramref name="condition"/> holds.</summary>
    public static void Until(Func<bool> condition) => s_actor?.Await(CacheStep.UsersGone, condition);
}
