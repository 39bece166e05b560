namespace Godwit.VfioUser;

/// <summary>How to connect.</summary>
public sealed record VfioUserClientOptions
{
    /// <summary>
    /// How long to wait for one reply before the device counts as lost; noticed at most a quarter later. Also bounds how long the
    /// device may leave the socket full. Above zero.
    /// </summary>
    public TimeSpan ReplyTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// Whether to ask for a twin socket, on which the device's own commands travel alone. Some servers confuse commands that meet on one
    /// socket; those that know nothing of it ignore the question.
    /// </summary>
    public bool TwinSocket { get; init; } = true;

    /// <summary>Clock for the timeout.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;
}
