namespace Godwit.Vfio;

/// <summary>Kinds of notice; each is posted once per device, because what repeats is often the guest's to repeat.</summary>
internal enum NoticeKind
{
    Lost,
    MapRefused,
    UnmapRefused,
    MappingLimit,
    ShadowingRefused,
    LoggingRefused,
    LogLost,
    LogStop,
    Recovery,
    RegionAccess,
    Interrupts,
    Configuration,
}

/// <summary>Things that an operator should know, one line each. Any thread.</summary>
internal sealed class NoticeBoard
{
    private int _posted;

    /// <summary>A line for the operator.</summary>
    public event Action<string>? Posted;

    /// <summary>Posts <paramref name="text"/> unless one of that kind has been posted since the last <see cref="Again"/>.</summary>
    public void Post(NoticeKind kind, string text)
    {
        int bit = 1 << (int)kind;
        if ((Interlocked.Or(ref _posted, bit) & bit) == 0)
            Posted?.Invoke(text);
    }

    /// <summary>Lets that kind be posted again: something has been done about it.</summary>
    public void Again(NoticeKind kind) => Interlocked.And(ref _posted, ~(1 << (int)kind));
}
