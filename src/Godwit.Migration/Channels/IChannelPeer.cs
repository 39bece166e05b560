namespace Godwit.Migration;

/// <summary>What stands at the other end of a channel when that is no other host: a command, or a thread of this process.</summary>
internal interface IChannelPeer : IDisposable
{
    /// <summary>What is known of how it ended, as the end of a sentence, or nothing.</summary>
    string EndNote { get; }
}
