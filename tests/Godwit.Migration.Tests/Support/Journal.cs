namespace Godwit.Migration.Tests;

/// <summary>The calls that a fake machine got, in order, and which of them are to fail.</summary>
internal sealed class Journal
{
    private readonly Lock _gate = new();
    private readonly List<string> _calls = [];
    private readonly Dictionary<string, Action> _hooks = new(StringComparer.Ordinal);

    public IReadOnlyList<string> Calls
    {
        get
        {
            lock (_gate)
                return [.. _calls];
        }
    }

    /// <summary>Runs <paramref name="action"/> within every later call of that name, before it counts as made.</summary>
    public void On(string call, Action action)
    {
        lock (_gate)
            _hooks[call] = action;
    }

    public void FailAt(string call) => On(call, () => throw new InvalidOperationException($"injected at {call}"));

    public void Clear()
    {
        lock (_gate)
        {
            _calls.Clear();
            _hooks.Clear();
        }
    }

    public void Add(string call)
    {
        Action? hook;
        lock (_gate)
        {
            _calls.Add(call);
            _hooks.TryGetValue(call, out hook);
        }

        hook?.Invoke();
    }
}
