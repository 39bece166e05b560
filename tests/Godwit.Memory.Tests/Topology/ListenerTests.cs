namespace Godwit.Memory.Tests.Topology;

public sealed class ListenerTests
{
    private readonly MemoryTopology _topology = new();
    private readonly List<string> _events = [];

    private AddressSpace Space => _topology.System;

    /// <summary>
    /// The contract as a property: whoever applies the events to an empty set always holds the view at the end of a commit, is never told
    /// of a range it has or of the loss of one it has not, and in each commit sees every removal (of every space) before the first addition.
    /// </summary>
    [Fact]
    public void Events_applied_to_a_set_are_the_view() => Seeded.Run(60, random =>
    {
        var tree = new RandomTree(random);
        var shadows = new Dictionary<AddressSpace, Shadow>();
        var phase = new Phase();
        for (int round = 0; round < 25; round++)
        {
            foreach (AddressSpace space in tree.Spaces)
            {
                if (shadows.ContainsKey(space) || random.Next(3) != 0)
                    continue;
                phase.Reset();
                shadows.Add(space, new Shadow(space, phase, random.Next(3)));
                space.AddListener(shadows[space]);
                shadows[space].Check();
            }

            phase.Reset();
            using (tree.Topology.Begin())
            {
                for (int step = random.Next(6); step >= 0; step--)
                {
                    tree.Step();
                    phase.Reset();
                }
            }

            foreach (Shadow shadow in shadows.Values)
                shadow.Check();
        }

        foreach ((AddressSpace space, Shadow shadow) in shadows)
        {
            phase.Reset();
            space.RemoveListener(shadow);
            Assert.Empty(shadow.Held);
        }
    });

    [Fact]
    public void A_listener_is_told_what_is_there_and_on_removal_that_it_went()
    {
        Add("a", 0);
        Add("b", 0x1000);
        var listener = new Recorder(this, "x");
        Space.AddListener(listener);
        Assert.Equal(["x begin", "x +a", "x +b", "x commit"], Taken());
        Space.RemoveListener(listener);
        Assert.Equal(["x begin", "x -a", "x -b", "x commit"], Taken());
        Add("c", 0x2000);
        Assert.Empty(Taken());
    }

    [Fact]
    public void Only_the_outermost_commit_tells_and_only_of_differences()
    {
        MmioRegion a = Add("a", 0);
        Space.AddListener(new Recorder(this, "x"));
        Taken();
        using (_topology.Begin())
        {
            Add("b", 0x1000);
            using (_topology.Begin())
                Add("c", 0x2000);
            _topology.SetEnabled(a, false);
            _topology.SetEnabled(a, true);
            Assert.Empty(Taken());
            Assert.Single(Space.View.Ranges);
        }

        Assert.Equal(["x begin", "x +b", "x +c", "x commit"], Taken());
    }

    [Fact]
    public void A_commit_that_changes_no_range_tells_nobody()
    {
        MmioRegion a = Add("a", 0);
        Space.AddListener(new Recorder(this, "x"));
        Taken();
        using (_topology.Begin())
        {
            _topology.Remove(a);
            _topology.Add(_topology.SystemRoot, default, a);
        }

        Assert.Empty(Taken());
    }

    [Fact]
    public void A_changed_attribute_is_a_removal_and_an_addition()
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("ram", 1 << 21);
        var writable = new RamRegion("ram", block);
        var rom = new RamRegion("rom", block, readOnly: true);
        _topology.Add(_topology.SystemRoot, default, writable);
        _topology.Add(_topology.SystemRoot, default, rom, -1);
        Space.AddListener(new Recorder(this, "x"));
        Taken();
        _topology.SetEnabled(writable, false);
        Assert.Equal(["x begin", "x -ram", "x +rom ro", "x commit"], Taken());
    }

    [Fact]
    public void Removals_of_all_spaces_come_first_and_priorities_order_them()
    {
        MmioRegion a = Add("a", 0);
        AddressSpace other = _topology.CreateAddressSpace("other", _topology.SystemRoot);
        Space.AddListener(new Recorder(this, "late") { Priority = 10 });
        other.AddListener(new Recorder(this, "early"));
        Space.AddListener(new Recorder(this, "middle") { Priority = 5 });
        Taken();
        _topology.Move(a, new BusAddress(0x5000));
        Assert.Equal(
            [
                "early begin", "middle begin", "late begin",
                "late -a", "middle -a", "early -a",
                "early +a", "middle +a", "late +a",
                "early commit", "middle commit", "late commit",
            ],
            Taken());
    }

    [Fact]
    public void Views_are_swapped_before_anybody_is_told()
    {
        AddressSpace other = _topology.CreateAddressSpace("other", _topology.SystemRoot);
        int seen = 0;
        Space.AddListener(new Recorder(this, "x")
        {
            OnEvent = _ =>
            {
                Assert.True(other.IsSystemMemory);
                seen = other.View.Ranges.Length;
            },
        });
        Add("a", 0);
        Assert.Equal(1, seen);
    }

    [Fact]
    public void A_listener_may_not_change_topology_while_told()
    {
        var refused = new List<Exception>();
        var recorder = new Recorder(this, "x");
        recorder.OnEvent = text =>
        {
            if (text != "x +a")
                return;
            refused.Add(Assert.Throws<InvalidOperationException>(() => _topology.Begin()));
            refused.Add(Assert.Throws<InvalidOperationException>(() => _topology.SetEnabled(_topology.SystemRoot, false)));
            refused.Add(Assert.Throws<InvalidOperationException>(() => Space.RemoveListener(recorder)));
            refused.Add(Assert.Throws<InvalidOperationException>(() => Space.AddListener(new Recorder(this, "y"))));
        };
        Space.AddListener(recorder);
        Add("a", 0);
        Assert.Equal(4, refused.Count);
        Assert.Single(Space.View.Ranges);

        // The refusals have left the lock as it was: another thread gets it.
        var thread = new Thread(() => Add("b", 0x1000));
        thread.Start();
        Assert.True(thread.Join(TimeSpan.FromSeconds(30)));
    }

    [Fact]
    public void A_listener_that_throws_does_not_hide_the_change_from_others()
    {
        Space.AddListener(new Recorder(this, "bad") { OnEvent = text => Complain(text, "bad +a") });
        Space.AddListener(new Recorder(this, "good") { Priority = 1 });
        Taken();
        var error = Assert.Throws<AggregateException>(() => Add("a", 0));
        Assert.Equal("bad +a", Assert.IsType<NotSupportedException>(Assert.Single(error.InnerExceptions)).Message);
        Assert.Equal(["bad begin", "good begin", "bad +a", "good +a", "bad commit", "good commit"], Taken());
        Add("b", 0x1000);
        Assert.Equal(["bad begin", "good begin", "bad +b", "good +b", "bad commit", "good commit"], Taken());
    }

    [Fact]
    public void A_listener_that_throws_on_registration_is_not_registered()
    {
        Add("a", 0);
        var bad = new Recorder(this, "bad") { OnEvent = text => Complain(text, "bad +a") };
        Assert.Throws<AggregateException>(() => Space.AddListener(bad));
        Taken();
        Add("b", 0x1000);
        Assert.Empty(Taken());
        Assert.Throws<InvalidOperationException>(() => Space.RemoveListener(bad));
    }

    [Fact]
    public void A_listener_is_registered_once()
    {
        var listener = new Recorder(this, "x");
        Space.AddListener(listener);
        Assert.Throws<InvalidOperationException>(() => Space.AddListener(listener));
    }

    [Fact]
    public void A_transaction_is_closed_once_and_by_its_own_thread()
    {
        TopologyTransaction transaction = _topology.Begin();
        Exception? foreign = null;
        var thread = new Thread(() => foreign = Record.Exception(transaction.Dispose));
        thread.Start();
        Assert.True(thread.Join(TimeSpan.FromSeconds(30)));
        Assert.IsType<InvalidOperationException>(foreign);
        transaction.Dispose();
        Assert.Throws<InvalidOperationException>(transaction.Dispose);
        default(TopologyTransaction).Dispose();
    }

    private static void Complain(string text, string about)
    {
        if (text == about)
            throw new NotSupportedException(text);
    }

    private MmioRegion Add(string name, ulong address)
    {
        var region = new MmioRegion(name, 0x1000, new Registers());
        _topology.Add(_topology.SystemRoot, new BusAddress(address), region);
        return region;
    }

    private string[] Taken()
    {
        string[] taken = [.. _events];
        _events.Clear();
        return taken;
    }

    private sealed class Recorder(ListenerTests owner, string name) : IMemoryListener
    {
        public int Priority { get; init; }

        internal Action<string> OnEvent { get; set; } = _ => { };

        public void TransactionBegin() => Note("begin");

        public void TransactionCommit() => Note("commit");

        public void RegionAdded(in FlatRange range) => Note("+" + range.Region.Name + (range.ReadOnly ? " ro" : ""));

        public void RegionRemoved(in FlatRange range) => Note("-" + range.Region.Name);

        private void Note(string text)
        {
            owner._events.Add($"{name} {text}");
            OnEvent($"{name} {text}");
        }
    }

    /// <summary>Whether the commit in progress has begun to add.</summary>
    private sealed class Phase
    {
        internal bool Adding { get; set; }

        internal void Reset() => Adding = false;
    }

    private sealed class Shadow(AddressSpace space, Phase phase, int priority) : IMemoryListener
    {
        private bool _open;

        public int Priority => priority;

        internal HashSet<FlatRange> Held { get; } = [];

        public void TransactionBegin()
        {
            Assert.False(_open);
            _open = true;
            phase.Reset();
        }

        public void RegionRemoved(in FlatRange range)
        {
            Assert.True(_open);
            Assert.False(phase.Adding, $"{range} goes after an addition");
            Assert.True(Held.Remove(range), $"{range} goes but never came");
        }

        public void RegionAdded(in FlatRange range)
        {
            Assert.True(_open);
            phase.Adding = true;
            BusRange added = range.Range;
            Assert.DoesNotContain(Held, held => held.Range.Overlaps(added));
            Assert.True(Held.Add(range));
        }

        public void TransactionCommit()
        {
            Assert.True(_open);
            _open = false;
        }

        internal void Check()
        {
            Assert.False(_open);
            Assert.True(Held.SetEquals(space.View.Ranges), $"{space}: the listener's picture differs from the view");
        }
    }
}
