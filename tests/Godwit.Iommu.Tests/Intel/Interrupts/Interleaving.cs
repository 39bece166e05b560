namespace Godwit.Iommu.Tests;

/// <summary>What is run in one order after the other: the work of some threads, and what they share, as text.</summary>
internal interface IScene
{
    /// <summary>Each thread's, with <see cref="CacheSteps.At"/> before whatever touches what is shared.</summary>
    IReadOnlyList<Action> Threads { get; }

    string State { get; }

    /// <summary>What has gone wrong, or null.</summary>
    string? Failure { get; }

    /// <summary>Whether a step may be made now.</summary>
    bool Allows(CacheStep step);

    /// <summary>The part of the state that a step looks at, and under what name its thread remembers it; null when it remembers nothing.</summary>
    (string Name, string Value)? Seen(CacheStep step);
}

/// <summary>
/// Every order in which a few threads can make their steps, one step at a time: each order is run from the start, up to a state that another
/// has come to already. A state is what the threads share, where each stands and what it remembers.
/// </summary>
internal sealed class Interleaving : IDisposable
{
    private readonly HashSet<string> _states = new(StringComparer.Ordinal);
    private readonly Stack<int[]> _open = new([[]]);
    private readonly Actor[] _actors;

    public Interleaving(int threads)
    {
        _actors = new Actor[threads];
        for (int i = 0; i < threads; i++)
            _actors[i] = new Actor();
    }

    /// <summary>Orders run so far, and states met.</summary>
    public (int Runs, int States) Count { get; private set; }

    /// <summary>Runs all; what was wrong in the first that was, with its order, or null.</summary>
    public string? Explore(Func<IScene> create)
    {
        while (_open.TryPop(out int[]? prefix))
        {
            IScene scene = create();
            var order = new List<int>(prefix);
            Run(scene, prefix, order);
            Count = (Count.Runs + 1, _states.Count);
            if (scene.Failure is { } failure)
                return $"{failure}, in the order {string.Concat(order)}";
        }

        return null;
    }

    public void Dispose()
    {
        foreach (Actor actor in _actors)
            actor.Dispose();
    }

    private void Run(IScene scene, int[] prefix, List<int> order)
    {
        for (int i = 0; i < _actors.Length; i++)
            _actors[i].Begin(scene, scene.Threads[i]);
        for (int at = 0; at < prefix.Length;)
        {
            int steps = prefix.AsSpan(at).IndexOfAnyExcept(prefix[at]);
            steps = steps < 0 ? prefix.Length - at : steps;
            _actors[prefix[at]].Step(steps);
            at += steps;
        }

        int last = 0;
        while (Enabled() is { Length: > 0 } enabled && _states.Add($"{scene.State}|{string.Join('|', _actors.Select(actor => actor.Story))}"))
        {
            int next = enabled.Contains(last) ? last : enabled[0];
            foreach (int other in enabled.Where(other => other != next))
                _open.Push([.. order, other]);
            order.Add(next);
            _actors[next].Step(1);
            last = next;
        }

        while (Enabled() is { Length: > 0 } rest)
            _actors[rest[0]].Step(int.MaxValue);
        if (!_actors.All(actor => actor.IsDone))
            throw new InvalidOperationException($"all wait for each other, in the order {string.Concat(order)}");
    }

    private int[] Enabled() => [.. Enumerable.Range(0, _actors.Length).Where(i => _actors[i].CanGoOn)];

    /// <summary>One of the threads, which makes steps when it is told to.</summary>
    internal sealed class Actor : IDisposable
    {
        private readonly SemaphoreSlim _go = new(0);
        private readonly SemaphoreSlim _stopped = new(0);
        private readonly Thread _thread;
        private IScene? _scene;
        private Action? _body;
        private readonly SortedDictionary<string, string> _memory = new(StringComparer.Ordinal);
        private Func<bool>? _condition;
        private CacheStep _step;
        private int _allowed;
        private bool _over;

        public Actor()
        {
            _thread = new Thread(Loop) { IsBackground = true };
            _thread.Start();
        }

        public bool IsDone { get; private set; } = true;

        public bool CanGoOn => !IsDone && _scene!.Allows(_step) && (_condition is null || _condition());

        /// <summary>Where it stands, and what it remembers.</summary>
        public string Story => IsDone ? "" : $"{_step} {string.Join(' ', _memory)}";

        /// <summary>Goes to the first step.</summary>
        public void Begin(IScene scene, Action body)
        {
            _scene = scene;
            _body = body;
            _allowed = 0;
            _memory.Clear();
            IsDone = false;
            Resume();
        }

        /// <summary>Makes steps: at most so many, fewer if it comes to its end or must wait for another.</summary>
        public void Step(int steps)
        {
            _allowed = steps;
            Resume();
        }

        /// <summary>Called on the thread, before a step.</summary>
        public void Await(CacheStep step, Func<bool>? condition)
        {
            _step = step;
            _condition = condition;
            while (_allowed == 0 || !CanGoOn)
            {
                _stopped.Release();
                _go.Wait();
            }

            _allowed--;
            if (_scene!.Seen(step) is { } seen)
                _memory[seen.Name] = seen.Value;
        }

        public void Dispose()
        {
            _over = true;
            _go.Release();
            _thread.Join();
            _go.Dispose();
            _stopped.Dispose();
        }

        private void Resume()
        {
            _go.Release();
            _stopped.Wait();
        }

        private void Loop()
        {
            while (true)
            {
                _go.Wait();
                if (_over)
                    return;
                CacheSteps.Run(this, _body!);
                IsDone = true;
                _stopped.Release();
            }
        }
    }
}
