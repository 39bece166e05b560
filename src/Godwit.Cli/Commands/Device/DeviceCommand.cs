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
    public static Option<string> Socket() => new("--socket")
    {
        Description = "Path of the unix socket to listen on; a socket that nobody uses any more is replaced.",
        HelpName = "PATH",
        Required = true,
    };

    /// <summary>Serves until told to stop.</summary>
    public static void Serve(IVfioUserDevice device, string socket, DmaLogLimits limits, CancellationToken stop) =>
        VfioUserServer.Run(device, new VfioUserServerOptions { SocketPath = socket, Log = Console.WriteLine, LogLimits = limits }, stop);
}
