using System.Text.Json;

namespace Godwit.Monitor;

/// <summary>Does a command. Writes one JSON value for <c>return</c>, or nothing for an empty object; throws to refuse.</summary>
internal delegate void QmpHandler(QmpArguments arguments, Utf8JsonWriter result);

/// <summary>A command by its name.</summary>
/// <param name="Name">Name on the wire.</param>
/// <param name="Arguments">Names of the arguments it takes.</param>
/// <param name="Blocking">It may wait for a vCPU or a device, so it gets a thread of its own.</param>
/// <param name="Handler">What it does.</param>
internal sealed record QmpCommand(string Name, IReadOnlyList<string> Arguments, bool Blocking, QmpHandler Handler);

/// <summary>The commands that a server knows. Filled before the server starts, only read after.</summary>
internal sealed class QmpCommandTable
{
    private readonly SortedDictionary<string, QmpCommand> _commands = new(StringComparer.Ordinal);

    /// <summary>All of them by name.</summary>
    public IReadOnlyCollection<string> Names => _commands.Keys;

    /// <summary>Adds a command that answers at once.</summary>
    public void Add(string name, QmpHandler handler, params IReadOnlyList<string> arguments) =>
        _commands.Add(name, new QmpCommand(name, arguments, Blocking: false, handler));

    /// <summary>Adds a command that may wait for a vCPU or a device.</summary>
    public void AddBlocking(string name, QmpHandler handler, params IReadOnlyList<string> arguments) =>
        _commands.Add(name, new QmpCommand(name, arguments, Blocking: true, handler));

    /// <summary>Finds a command or throws the error for one that does not exist.</summary>
    public QmpCommand Find(string name) => _commands.TryGetValue(name, out QmpCommand? command)
        ? command
        : throw new QmpException(QmpException.CommandNotFound, $"There is no command '{name}'; query-commands lists those there are");
}
