using System.Collections.Concurrent;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>What lives have in common and what is dear to make: a board with slots for two devices, and the oracle. One life at a time.</summary>
internal sealed class World : IDisposable
{
    /// <summary>Lines of a trace that are told.</summary>
    private const int TraceLines = 40;

    public World()
    {
        Board = new ModelBoard(slots: 2);
        Oracle = new DirtyOracle(Board);
        Board.Ram.Dirty.Start();
        StopRecording();
    }

    public ModelBoard Board { get; }

    public DirtyOracle Oracle { get; }

    public OracleRandom Random { get; } = new();

    /// <summary>What devices of a kind were found to accept, in all worlds: there are some thousand kinds.</summary>
    public static ConcurrentDictionary<(ModelDeviceTraits Device, int EndBits), DeviceLogLimits> KnownLimits { get; } = [];

    /// <summary>
    /// What <see cref="DirtyLog.Start"/> does, without its fence in every thread of the process, which costs more than a life: all of a life happens
    /// in one thread. While no migration runs, nothing is marked, because no tracker is started.
    /// </summary>
    public void StartRecording() => Board.Ram.Dirty.Mark(default, ModelBoard.RamPages, DirtySource.Vmm);

    /// <summary>What <see cref="DirtyLog.Stop"/> does, by the same reasoning.</summary>
    public void StopRecording() => Board.Ram.Dirty.Drain(default, stackalloc ulong[(int)ModelBoard.RamPages / 64]);

    /// <summary>
    /// Lives a life, and when a page is lost, leaves out as many of its steps as it can without finding it again. Null when none is lost.
    /// </summary>
    public string? Judge(int seed, Mutation mutation, LifeTotals totals)
    {
        if (Lost(seed, mutation, new HashSet<int>(), totals) is not { } whole)
            return null;
        int steps = Life.StepsOf(this, seed);
        HashSet<int> without = [];
        string least = whole;
        for (int chunk = steps / 2; chunk > 0; chunk /= 2)
        {
            for (int from = 0; from < steps; from += chunk)
            {
                HashSet<int> fewer = [.. without, .. Enumerable.Range(from, Math.Min(chunk, steps - from))];
                if (fewer.Count > without.Count && Lost(seed, mutation, fewer, new LifeTotals()) is { } still)
                    (without, least) = (fewer, still);
            }
        }

        List<string> trace = [];
        Lost(seed, mutation, without, new LifeTotals(), trace);
        return $"seed {seed}, {steps - without.Count} of {steps} steps: {least}{Environment.NewLine}  {string.Join($"{Environment.NewLine}  ", trace.TakeLast(TraceLines))}";
    }

    public void Dispose() => Board.Dispose();

    private string? Lost(int seed, Mutation mutation, IReadOnlySet<int> without, LifeTotals totals, List<string>? trace = null)
    {
        using var life = new Life(this, seed, mutation, without, totals, trace);
        try
        {
            life.Run();
            return null;
        }
        catch (LostPageException e)
        {
            return e.Message;
        }
        catch (Exception e)
        {
            throw new InvalidOperationException($"Seed {seed}: {e.Message}", e);
        }
    }
}

/// <summary>What happened in lives, so that a test can tell whether there was something to judge.</summary>
internal sealed class LifeTotals
{
    public long Lives, Steps, Writes, Syncs, Completed, Cancelled, Failed, Rearms, Switches, Maps, Unmaps;

    public void Add(LifeTotals other)
    {
        Lives += other.Lives;
        Steps += other.Steps;
        Writes += other.Writes;
        Syncs += other.Syncs;
        Completed += other.Completed;
        Cancelled += other.Cancelled;
        Failed += other.Failed;
        Rearms += other.Rearms;
        Switches += other.Switches;
        Maps += other.Maps;
        Unmaps += other.Unmaps;
    }

    public override string ToString() =>
        $"{Lives} lives of {Steps} steps: {Writes} DMA writes, {Maps} maps, {Unmaps} unmaps, {Switches} domain switches, {Syncs} syncs, {Completed} migrations completed, {Cancelled} cancelled, {Failed} failed with a lost log, {Rearms} logs started anew";
}

/// <summary>A page that the tracker lost.</summary>
internal sealed class LostPageException(string message) : Exception(message);
