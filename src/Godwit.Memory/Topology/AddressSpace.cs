namespace Godwit.Memory;

/// <summary>
/// A view over one root region: system memory, or what one device sees. Accesses take no lock: the view is immutable and swapped.
/// Created by <see cref="MemoryTopology"/>. All members may be called from any thread at once.
/// </summary>
public sealed partial class AddressSpace
{
    private readonly MemoryTopology _topology;
    private readonly List<IMemoryListener> _listeners = [];
    private FlatView _view;

    internal AddressSpace(MemoryTopology topology, string name, MemoryRegion root)
    {
        _topology = topology;
        Name = name;
        Root = root;
        _view = new FlatView(root, []);
    }

    /// <summary>Shown in listings.</summary>
    public string Name { get; }

    /// <summary>The region that appears at address 0.</summary>
    public MemoryRegion Root { get; }

    /// <summary>The view now.</summary>
    public FlatView View => Volatile.Read(ref _view);

    /// <summary>
    /// Whether this space shows system memory itself, with no IOMMU region in it (a device whose IOVA is GPA): its root and that of
    /// system memory reduce to the same region.
    /// </summary>
    public bool IsSystemMemory => ReferenceEquals(View.Root, _topology.System.View.Root);

    /// <summary>Adds a listener and replays the current view to it as additions, inside a transaction.</summary>
    /// <exception cref="InvalidOperationException">It listens to this space already, or the caller is a listener being told.</exception>
    /// <exception cref="AggregateException">It threw during the replay; it is not registered.</exception>
    public void AddListener(IMemoryListener listener)
    {
        ArgumentNullException.ThrowIfNull(listener);
        using TopologyTransaction transaction = _topology.Begin();
        if (_listeners.Contains(listener))
            throw new InvalidOperationException($"The listener is registered with address space {Name} already");
        FlatRange[] ranges = [.. View.Ranges];
        _topology.Deliver(errors => ViewChange.Tell([new ViewChange(listener, [], ranges)], errors));
        _listeners.Add(listener);
    }

    /// <summary>Replays the current view as removals and removes the listener, even if it throws.</summary>
    /// <exception cref="InvalidOperationException">It does not listen to this space, or the caller is a listener being told.</exception>
    /// <exception cref="AggregateException">It threw during the replay.</exception>
    public void RemoveListener(IMemoryListener listener)
    {
        ArgumentNullException.ThrowIfNull(listener);
        using TopologyTransaction transaction = _topology.Begin();
        if (!_listeners.Remove(listener))
            throw new InvalidOperationException($"The listener is not registered with address space {Name}");
        FlatRange[] ranges = [.. View.Ranges];
        _topology.Deliver(errors => ViewChange.Tell([new ViewChange(listener, ranges, [])], errors));
    }

    /// <inheritdoc/>
    public override string ToString() => $"address space {Name}";

    internal void Publish(FlatView view) => Volatile.Write(ref _view, view);

    /// <summary>What this space's listeners are to be told, now that the view has been swapped.</summary>
    internal IEnumerable<ViewChange> ChangesFrom(FlatView old)
    {
        if (_listeners.Count == 0)
            return [];
        (List<FlatRange> removed, List<FlatRange> added) = ViewChange.Compare(old.Ranges.AsSpan(), View.Ranges.AsSpan());
        return removed.Count + added.Count == 0 ? [] : _listeners.ConvertAll(listener => new ViewChange(listener, removed, added));
    }
}
