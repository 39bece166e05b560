using System.CommandLine;

namespace Godwit.Cli;

/// <summary>The command line as a whole.</summary>
internal static class GodwitCommand
{
    public static RootCommand Create()
    {
        RootCommand root = Tree();
        DocumentedHelpAction.Install(root);
        return root;
    }

    private static RootCommand Tree() => new(
        """
        Live-migrates virtual machines whose passthrough devices log their own DMA behind a virtual IOMMU.

        Begin with 'godwit demo': it starts everything below by itself, migrates a busy machine and proves that nothing was lost.

        Exit codes: 0 done, 1 failed, refused or cancelled (standard error says why), 2 wrong command line.
        """)
    {
        DemoCommand.Create(),
        RunCommand.Create(),
        MigrateCommand.Create(),
        StatusCommand.Create(),
        BlockersCommand.Create(),
        ControlCommands.Create("stop", "Pause the machine: vCPUs and devices stop."),
        ControlCommands.Create("cont", "Let a paused machine go on."),
        ControlCommands.Create("powerdown", "Press the power button: the guest ends its I/O and switches the machine off.", "system_powerdown"),
        ControlCommands.Create(
            "migrate-continue",
            "Let a migration go on that waits before its switchover (migrate --pause-before-switchover).",
            arguments: static writer => writer.WriteString("state", "pre-switchover")),
        ControlCommands.Create("quit", "End the machine's process."),
        DeviceCommand.Create(),
    };
}
