using System.CommandLine;
using Godwit.VfioUser;

namespace Godwit.Cli;

/// <summary><c>godwit device</c>: device models, each in a process of its own, served over vfio-user.</summary>
internal static class DeviceCommand
{
    public static Command Create() => new("device", "Serve a device model over vfio-user, examine one, or look at those of this host.")
    {
        NvmeCommand.Create(), EduCommand.Create(), CheckCommand.Create(), ListCommand.Create(),
    };

    /// <summary>Where to listen.</summary>
    public static Option<string[]> Socket() => new("--socket")
    {
        Description = "Path of the unix socket to listen on; a socket that nobody uses any more is replaced. Given again, another device is served.",
        HelpName = "PATH",
        Required = true,
    };

    /// <summary>Serves each device on the socket at its place until told to stop.</summary>
    public static void Serve(IReadOnlyList<IVfioUserDevice> devices, string[] sockets, DmaLogLimits limits, CancellationToken stop) =>
        VfioUserServer.RunAll([.. devices.Zip(sockets, (device, socket) => (device, new VfioUserServerOptions { SocketPath = socket, Log = LogOf(socket, sockets), LogLimits = limits }))], stop);

    /// <summary>Where a device's lines go: with several in this process, each says whose it is.</summary>
    public static Action<string> LogOf(string socket, string[] sockets)
    {
        if (sockets.Length == 1)
        {
            return Console.WriteLine;
        }

        return line => Console.WriteLine(line.StartsWith("listening on ", StringComparison.Ordinal) ? line : $"{Path.GetFileName(socket)}: {line}");
    }
}
