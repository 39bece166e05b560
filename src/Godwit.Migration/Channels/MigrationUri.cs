using System.Globalization;
using System.Text;

namespace Godwit.Migration;

/// <summary>
/// Where a migration goes to or comes in, in QEMU's forms: <c>unix:PATH</c>, <c>tcp:HOST:PORT</c>, <c>fd:NUMBER</c>, <c>exec:COMMAND</c>,
/// <c>file:PATH</c>; and <c>local:PATH</c>, where it is handed over to another process of this host.
/// </summary>
public abstract record MigrationUri
{
    /// <summary>The forms, for messages.</summary>
    public const string Forms = "unix:PATH, tcp:HOST:PORT, fd:NUMBER, exec:COMMAND, file:PATH and local:PATH";

    private protected MigrationUri()
    {
    }

    /// <summary>Reads one. IPv6 addresses stand in brackets: <c>tcp:[::1]:4444</c>.</summary>
    /// <exception cref="FormatException">It is of none of the forms; the text says what is wrong.</exception>
    public static MigrationUri Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (text.StartsWith("unix:", StringComparison.Ordinal))
            return new UnixMigrationUri(ParseSocketPath(text, "unix:"));
        if (text.StartsWith("local:", StringComparison.Ordinal))
            return new LocalMigrationUri(ParseSocketPath(text, "local:"));
        if (text.StartsWith("tcp:", StringComparison.Ordinal))
            return ParseTcp(text);
        if (text.StartsWith("fd:", StringComparison.Ordinal))
            return ParseFd(text);
        if (text.StartsWith("exec:", StringComparison.Ordinal))
            return ParseExec(text);
        if (text.StartsWith("file:", StringComparison.Ordinal))
            return ParseFile(text);
        throw new FormatException($"'{text}' is no migration address; the forms are {Forms}");
    }

    /// <summary>The path of an address that is a unix socket, or null.</summary>
    internal static string? SocketPathOf(MigrationUri uri) => uri switch
    {
        UnixMigrationUri unix => unix.Path,
        LocalMigrationUri local => local.Path,
        _ => null,
    };

    private static FdMigrationUri ParseFd(string text)
    {
        string number = text["fd:".Length..];
        if (!int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int value))
            throw new FormatException($"'{text}': the descriptor is '{number}'; it must be a number from 0 to {int.MaxValue}");
        return new FdMigrationUri(value);
    }

    private static FileMigrationUri ParseFile(string text)
    {
        string path = text["file:".Length..];
        if (path.Length == 0)
            throw new FormatException("'file:' has no path; the form is file:PATH");
        if (path.Contains('\0', StringComparison.Ordinal))
            throw new FormatException("The path of file: holds a zero byte");
        return new FileMigrationUri(path);
    }

    private static ExecMigrationUri ParseExec(string text)
    {
        string command = text["exec:".Length..];
        if (string.IsNullOrWhiteSpace(command))
            throw new FormatException("'exec:' has no command; the form is exec:COMMAND");
        if (command.Contains('\0', StringComparison.Ordinal))
            throw new FormatException("The command of exec: holds a zero byte");
        return new ExecMigrationUri(command);
    }

    private static string ParseSocketPath(string text, string scheme)
    {
        string path = text[scheme.Length..];
        if (path.Length == 0)
            throw new FormatException($"'{scheme}' has no path; the form is {scheme}PATH");
        if (path.Contains('\0', StringComparison.Ordinal))
            throw new FormatException("The path of a unix socket holds a zero byte");
        int bytes = Encoding.UTF8.GetByteCount(path);
        if (bytes > UnixMigrationUri.MaxPathBytes)
        {
            throw new FormatException(
                $"The path '{path}' has {bytes} bytes; a unix socket's path has at most {UnixMigrationUri.MaxPathBytes}");
        }

        return path;
    }

    private static TcpMigrationUri ParseTcp(string text)
    {
        string rest = text["tcp:".Length..];
        int colon = rest.LastIndexOf(':');
        if (colon < 0 || rest.EndsWith(']'))
            throw new FormatException($"'{text}' has no port; the form is tcp:HOST:PORT");
        string host = rest[..colon];
        string port = rest[(colon + 1)..];
        if (host.StartsWith('[') && host.EndsWith(']'))
            host = host[1..^1];
        else if (host.Contains(':', StringComparison.Ordinal))
            throw new FormatException($"'{text}': an IPv6 address stands in brackets, as in tcp:[::1]:4444");
        if (host.Length == 0)
            throw new FormatException($"'{text}' has no host; the form is tcp:HOST:PORT");
        if (!ushort.TryParse(port, NumberStyles.None, CultureInfo.InvariantCulture, out ushort number))
            throw new FormatException($"'{text}': the port is '{port}'; it must be a number from 0 to {ushort.MaxValue}");
        return new TcpMigrationUri(host, number);
    }
}

/// <summary>A unix socket in the file system.</summary>
/// <param name="Path">Its path.</param>
public sealed record UnixMigrationUri(string Path) : MigrationUri
{
    /// <summary>Longest path: sun_path of unix(7) less its terminating zero.</summary>
    public const int MaxPathBytes = 107;

    /// <inheritdoc/>
    public override string ToString() => $"unix:{Path}";
}

/// <summary>A unix socket in the file system, for a handover: RAM goes by descriptor, and only to a process of the same user.</summary>
/// <param name="Path">Its path.</param>
public sealed record LocalMigrationUri(string Path) : MigrationUri
{
    /// <inheritdoc/>
    public override string ToString() => $"local:{Path}";
}

/// <summary>A TCP address.</summary>
/// <param name="Host">Name or address, without brackets.</param>
/// <param name="Port">Port; 0 lets a listener take a free one.</param>
public sealed record TcpMigrationUri(string Host, ushort Port) : MigrationUri
{
    /// <inheritdoc/>
    public override string ToString() => Host.Contains(':', StringComparison.Ordinal) ? $"tcp:[{Host}]:{Port}" : $"tcp:{Host}:{Port}";
}

/// <summary>A connected stream socket that this process was started with.</summary>
/// <param name="Number">Number of the descriptor in this process.</param>
public sealed record FdMigrationUri(int Number) : MigrationUri
{
    /// <inheritdoc/>
    public override string ToString() => $"fd:{Number}";
}

/// <summary>A command whose standard input and output are the connection, both ways.</summary>
/// <param name="Command">For <c>/bin/sh -c</c>.</param>
public sealed record ExecMigrationUri(string Command) : MigrationUri
{
    /// <inheritdoc/>
    public override string ToString() => $"exec:{Command}";
}

/// <summary>A file that a machine is saved to, or restored from.</summary>
/// <param name="Path">Its path.</param>
public sealed record FileMigrationUri(string Path) : MigrationUri
{
    /// <inheritdoc/>
    public override string ToString() => $"file:{Path}";
}
