namespace Godwit.Monitor;

/// <summary>Every bound of the monitor in one place. None is of the specification; each is far above what clients send.</summary>
internal static class QmpLimits
{
    /// <summary>Longest message in bytes. The longest that any client sends is a <c>migrate</c> with channels, well below 4 KiB.</summary>
    public const int MessageBytes = 1 << 20;

    /// <summary>Deepest nesting of objects and arrays; the framer keeps one bit a level in 64.</summary>
    public const int Depth = 64;

    /// <summary>Commands of one session that wait for execution before the session is read no further.</summary>
    public const int QueuedCommands = 64;

    /// <summary>Bytes of replies and events a session may leave unread before it is dropped, so that it cannot hold memory.</summary>
    public const int UnreadBytes = 8 << 20;

    /// <summary>Sessions at once.</summary>
    public const int Sessions = 64;
}
