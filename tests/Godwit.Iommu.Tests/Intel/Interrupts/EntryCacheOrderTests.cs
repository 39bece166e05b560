using Godwit.Iommu.Intel.Interrupts;
using Variants = Godwit.Iommu.Intel.Interrupts.Tests.Variants;

namespace Godwit.Iommu.Tests;

/// <summary>
/// The steps of <see cref="InterruptEntryCache"/> in every order of three threads: two deliver an interrupt each, as <see cref="Iommu.Intel.InterruptRemapper"/>
/// does it, while the guest changes the entry and invalidates it, twice. The source as it is never delivers by an entry whose
/// invalidation had returned; each variant does. (Processors may reorder nothing: every step is a full fence, or comes behind one.)
/// </summary>
public sealed class EntryCacheOrderTests
{
    [Fact]
    public void In_no_order_is_an_entry_used_whose_invalidation_has_returned()
    {
        using var interleaving = new Interleaving(CacheScene.Count);
        string? failure = interleaving.Explore(() => new CacheScene(new Variants.Stepped.InterruptEntryCache()));
        TestContext.Current.TestOutputHelper?.WriteLine($"{interleaving.Count}");
        Assert.Null(failure);
        Assert.True(interleaving.Count.States > 1000, $"only {interleaving.Count}");
    }

    [Theory]
    [InlineData(nameof(Variants.TurnNotCheckedAgain))]
    [InlineData(nameof(Variants.OneCounterAwaited))]
    [InlineData(nameof(Variants.StaleEntryStays))]
    [InlineData(nameof(Variants.GenerationGrowsLast))]
    public void Each_variant_uses_one(string variant)
    {
        using var interleaving = new Interleaving(CacheScene.Count);
        string? failure = interleaving.Explore(() => new CacheScene(Create(variant)));
        TestContext.Current.TestOutputHelper?.WriteLine($"{variant}: {failure} ({interleaving.Count})");
        Assert.NotNull(failure);
    }

    private static ISteppedCache Create(string variant) => variant switch
    {
        nameof(Variants.TurnNotCheckedAgain) => new Variants.TurnNotCheckedAgain.InterruptEntryCache(),
        nameof(Variants.OneCounterAwaited) => new Variants.OneCounterAwaited.InterruptEntryCache(),
        nameof(Variants.StaleEntryStays) => new Variants.StaleEntryStays.InterruptEntryCache(),
        _ => new Variants.GenerationGrowsLast.InterruptEntryCache(),
    };
}

/// <summary>
/// A guest that moves one interrupt twice, and two devices that send one message each by it. The first move is there for the devices to begin during
/// it and be interrupted: they count when it is over. A step is what touches something that another thread changes. Where two can be one
/// without hiding a failure they are (that a device leaves only lets the guest go on; that the guest is promised more at once can only
/// show more).
/// </summary>
internal sealed class CacheScene : IScene
{
    internal const int Count = 3;
    private const int Moves = 2;

    private readonly ISteppedCache _cache;
    private int _entry;    // in the guest's table
    private int _promised; // no older one is used: its invalidation has returned

    public CacheScene(ISteppedCache cache)
    {
        _cache = cache;
        Threads = [Move, () => Send(1), () => Send(2)];
    }

    public IReadOnlyList<Action> Threads { get; }

    public string State => $"{_cache.State};{_entry};{_promised}";

    public string? Failure { get; private set; }

    public bool Allows(CacheStep step) => step != CacheStep.Counted || _promised != 0;

    public (string Name, string Value)? Seen(CacheStep step)
    {
        string[] words = _cache.State.Split(' ', 5); // turn, users, users, generation, slot
        return step switch
        {
            CacheStep.TurnRead => ("turn", words[0]),
            CacheStep.GenerationRead => ("generation", words[3]),
            CacheStep.SlotRead => ("entry", words[4]),
            CacheStep.EntryRead => ("entry", $"{_entry}"),
            _ => null,
        };
    }

    private void Move()
    {
        for (int move = 1; move <= Moves; move++)
        {
            CacheSteps.At(CacheStep.EntryWritten);
            _entry = move;
            _cache.Invalidate(0, 0);
            _promised = move;
        }
    }

    private void Send(ulong device)
    {
        int turn = _cache.Enter();
        if (!_cache.TryGet(0, out InterruptTableEntry entry))
        {
            CacheSteps.At(CacheStep.GenerationRead);
            int generation = _cache.Generation;
            CacheSteps.At(CacheStep.EntryRead);
            entry = new InterruptTableEntry((ulong)_entry, device);
            _cache.Add(0, entry, generation);
        }

        CacheSteps.At(CacheStep.Delivered);
        if (entry.Low < (ulong)_promised)
            Failure ??= $"device {device} sent by entry {entry.Low} after the invalidation for {_promised}";
        _cache.Exit(turn);
    }
}
