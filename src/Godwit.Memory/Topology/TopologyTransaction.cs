namespace Godwit.Memory;

/// <summary>An open transaction; disposing commits, once, on the thread that opened it.</summary>
public readonly struct TopologyTransaction : IDisposable
{
    private readonly MemoryTopology? _topology;

    internal TopologyTransaction(MemoryTopology topology)
    {
        _topology = topology;
    }

    /// <summary>Commits if it is the outermost. Rethrows what listeners threw, as <see cref="AggregateException"/>.</summary>
    public void Dispose() => _topology?.End();
}
