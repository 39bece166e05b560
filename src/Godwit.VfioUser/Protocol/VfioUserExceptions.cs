using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Base of everything that can go wrong with a vfio-user peer.</summary>
public abstract class VfioUserException : IOException
{
    private protected VfioUserException(string message, Exception? inner = null) : base(message, inner) { }
}

/// <summary>The peer answered a command with an error; the connection is fine.</summary>
public sealed class VfioUserRemoteException(string command, Errno errno, string? detail = null, Exception? inner = null)
    : VfioUserException($"The vfio-user peer refused {command}: {errno}{(detail is null ? "" : $" ({detail})")}", inner)
{
    /// <summary>The command, by its name in the specification.</summary>
    public string Command { get; } = command;

    /// <summary>The error number it answered with.</summary>
    public Errno Errno { get; } = errno;
}

/// <summary>The peer broke the protocol; the connection is closed.</summary>
public sealed class VfioUserProtocolException(string message) : VfioUserException(message);

/// <summary>The connection is gone, or an answer did not come in time.</summary>
public sealed class VfioUserDisconnectedException(string message, Exception? inner = null) : VfioUserException(message, inner);
