using System.Diagnostics.CodeAnalysis;

namespace Godwit.Memory;

/// <summary>
/// The writer side of memory: one lock for all topology changes, made in transactions. The outermost commit renders the roots that
/// may have changed (equal reduced roots share one view), swaps the views, then tells the listeners of all spaces: all removals first.
/// </summary>
/// <remarks>
/// Lock order: this lock comes before the lock of any IOMMU unit, because listeners called under it register with IOMMU regions. A unit
/// that switches domains opens the transaction before it takes its own lock.
/// </remarks>
public sealed class MemoryTopology
{
    private readonly Lock _writer = new();
    private readonly List<AddressSpace> _spaces = [];
    private readonly HashSet<MemoryRegion> _changed = [];
    private Dictionary<MemoryRegion, FlatView> _views = [];
    private int _depth;
    private bool _delivering;

    /// <summary>Creates an empty topology whose system memory is an empty 2^64 container.</summary>
    public MemoryTopology()
    {
        SystemRoot = new ContainerRegion("system", MemoryRegion.MaxSize);
        System = CreateAddressSpace("memory", SystemRoot);
    }

    /// <summary>Root of system memory.</summary>
    public ContainerRegion SystemRoot { get; }

    /// <summary>The space that CPUs access, and devices behind no IOMMU.</summary>
    public AddressSpace System { get; }

    /// <summary>
    /// Creates a space over <paramref name="root"/>. Its view is rendered by the commit: at once, or at the end of a transaction that
    /// the caller holds open. Spaces live as long as the topology.
    /// </summary>
    public AddressSpace CreateAddressSpace(string name, MemoryRegion root)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        ArgumentNullException.ThrowIfNull(root);
        using TopologyTransaction transaction = Begin();
        var result = new AddressSpace(this, name, root);
        _spaces.Add(result);
        _changed.Add(root);
        return result;
    }

    /// <summary>
    /// Opens a transaction; nests. Holds the writer lock until the returned value is disposed, which commits. Changes made outside
    /// one open their own.
    /// </summary>
    /// <exception cref="InvalidOperationException">Called by a listener while a commit tells it of changes.</exception>
    public TopologyTransaction Begin()
    {
        _writer.Enter();
        if (_delivering)
        {
            _writer.Exit();
            throw new InvalidOperationException(
                "A memory listener may not change topology or listeners of address spaces while it is told of a change");
        }

        _depth++;
        return new TopologyTransaction(this);
    }

    /// <summary>Places <paramref name="child"/> at <paramref name="offset"/> of <paramref name="parent"/>; higher priority hides lower.</summary>
    /// <exception cref="InvalidOperationException">It is placed already.</exception>
    /// <exception cref="RegionLoopException">It shows <paramref name="parent"/> itself.</exception>
    public void Add(ContainerRegion parent, BusAddress offset, MemoryRegion child, int priority = 0)
    {
        using TopologyTransaction transaction = Begin();
        if (child.Parent is not null)
            throw new InvalidOperationException($"{child} is placed in {child.Parent} already");
        if (RegionGraph.Reaches(child, parent))
            throw new RegionLoopException(parent, child);
        child.Parent = parent;
        child.Offset = offset;
        child.Priority = priority;
        parent.Insert(child);
        _changed.Add(parent);
    }

    /// <summary>Takes <paramref name="child"/> out of its parent.</summary>
    /// <exception cref="InvalidOperationException">It is not placed.</exception>
    public void Remove(MemoryRegion child)
    {
        using TopologyTransaction transaction = Begin();
        ContainerRegion parent = ParentOf(child);
        parent.Take(child);
        child.Parent = null;
        child.Offset = default;
        _changed.Add(parent);
    }

    /// <summary>Moves <paramref name="child"/> within its parent; its standing among siblings stays.</summary>
    /// <exception cref="InvalidOperationException">It is not placed.</exception>
    public void Move(MemoryRegion child, BusAddress offset)
    {
        using TopologyTransaction transaction = Begin();
        ContainerRegion parent = ParentOf(child);
        if (child.Offset == offset)
            return;
        child.Offset = offset;
        _changed.Add(parent);
    }

    /// <summary>Shows or hides <paramref name="region"/> with everything below it.</summary>
    public void SetEnabled(MemoryRegion region, bool enabled)
    {
        using TopologyTransaction transaction = Begin();
        if (region.Enabled == enabled)
            return;
        region.Enabled = enabled;
        _changed.Add(region);
    }

    /// <summary>
    /// Waits until every access that began before this call has ended. An IOMMU calls it after dropping a translation and before it
    /// tells the guest so: translate and use happen under one guard.
    /// </summary>
    /// <remarks>
    /// May be called from a register handler and even inside <see cref="IommuRegion.Translate"/>; the caller's own access is not waited
    /// for. A translation in progress elsewhere is waited for, so the caller must hold no lock that <see cref="IommuRegion.Translate"/>
    /// takes.
    /// </remarks>
    [SuppressMessage("Performance", "CA1822", Justification = "Whose accesses are waited for beyond this topology's is an implementation matter")]
    public void WaitForAccesses() => AccessGuard.WaitForAll();

    /// <summary>The region trees and flat views of all spaces, for people.</summary>
    public string Describe()
    {
        using TopologyTransaction transaction = Begin();
        return TopologyListing.Write(_spaces);
    }

    /// <summary>Ends the innermost transaction.</summary>
    internal void End()
    {
        if (!_writer.IsHeldByCurrentThread || _depth == 0)
            throw new InvalidOperationException("No transaction of this thread is open; was it disposed twice?");
        try
        {
            if (_depth == 1)
                Commit();
        }
        finally
        {
            _depth--;
            _writer.Exit();
        }
    }

    /// <summary>Calls listeners, during which the topology is closed. Returns what they threw.</summary>
    internal void Deliver(Action<List<Exception>> calls)
    {
        var errors = new List<Exception>();
        _delivering = true;
        try
        {
            calls(errors);
        }
        finally
        {
            _delivering = false;
        }

        if (errors.Count != 0)
            throw new AggregateException("Memory listeners failed", errors);
    }

    private static ContainerRegion ParentOf(MemoryRegion child) =>
        child.Parent ?? throw new InvalidOperationException($"{child} is placed nowhere");

    private void Commit()
    {
        if (_changed.Count == 0)
            return;
        var touched = new RegionGraph(_changed);
        var views = new Dictionary<MemoryRegion, FlatView>();
        var changes = new List<ViewChange>();
        foreach (AddressSpace space in _spaces)
        {
            MemoryRegion root = FlatViewRenderer.Reduce(space.Root);
            if (!views.TryGetValue(root, out FlatView? view))
            {
                view = ViewOf(root, touched);
                views.Add(root, view);
            }

            FlatView old = space.View;
            if (ReferenceEquals(old, view))
                continue;
            space.Publish(view);
            changes.AddRange(space.ChangesFrom(old));
        }

        _views = views;
        _changed.Clear();
        if (changes.Count != 0)
            Deliver(errors => ViewChange.Tell(changes, errors));
    }

    /// <summary>The view of a reduced root: the one that was, if it still is right.</summary>
    private FlatView ViewOf(MemoryRegion root, RegionGraph touched)
    {
        _views.TryGetValue(root, out FlatView? old);
        if (old is not null && !touched.Includes(root))
            return old;
        FlatView rendered = FlatViewRenderer.Render(root);
        return old is not null && old.Ranges.AsSpan().SequenceEqual(rendered.Ranges.AsSpan()) ? old : rendered;
    }
}
