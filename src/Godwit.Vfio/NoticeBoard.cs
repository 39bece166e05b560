namespace Godwit.Vfio;

/// <summary>Kinds of notice that are posted once for each device, because what repeats is the guest's or the device's to repeat.</summary>
internal enum NoticeKind
{
    /// <summary>The device has gone.</summary>
    Lost,

    /// <summary>The device refused a mapping.</summary>
    MapRefused,

    /// <summary>The device's limit of mappings is reached.</summary>
    MappingLimit,

    /// <summary>Nor are all of the mappings beyond it remembered.</summary>
    MappingForgotten,

    /// <summary>The guest wants the device to reach something that is no RAM.</summary>
    NotRam,

    /// <summary>The vIOMMU does not announce mappings.</summary>
    ShadowingRefused,

    /// <summary>The device refused an access to a BAR.</summary>
    RegionAccess,

    /// <summary>The device refused its interrupts.</summary>
    Interrupts,

    /// <summary>The device refused its interrupt pin, which the guest may not need.</summary>
    Pin,

    /// <summary>The device refused something of its configuration.</summary>
    Configuration,
}

/// <summary>Things that an operator should know, one line each. Any thread. What is posted before anybody listens waits for the first who does.</summary>
internal sealed class NoticeBoard
{
    private readonly Lock _gate = new();
    private readonly List<string> _early = [];
    private Action<string>? _listeners;
    private int _posted;

    /// <summary>A line for the operator.</summary>
    public event Action<string>? Posted
    {
        add
        {
            string[] early;
            lock (_gate)
            {
                _listeners += value;
                early = [.. _early];
                _early.Clear();
            }

            foreach (string text in early)
                value?.Invoke(text);
        }

        remove
        {
            lock (_gate)
                _listeners -= value;
        }
    }

    /// <summary>Posts <paramref name="text"/> unless one of that kind has been posted before.</summary>
    public void PostOnce(NoticeKind kind, string text)
    {
        int bit = 1 << (int)kind;
        if ((Interlocked.Or(ref _posted, bit) & bit) == 0)
            Post(text);
    }

    /// <summary>Posts <paramref name="text"/>. For what neither the guest nor the device can make happen at will.</summary>
    public void Post(string text)
    {
        Action<string>? listeners;
        lock (_gate)
        {
            listeners = _listeners;
            if (listeners is null)
                _early.Add(text);
        }

        listeners?.Invoke(text);
    }
}
