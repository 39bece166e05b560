using System.Diagnostics;
using Godwit.Devices;
using Godwit.Machine.Bench;
using Godwit.VfioUser;

// Called by itself as the device process: device IMAGE SOCKET
if (args is ["device", string imagePath, string socketPath])
{
    using var controller = NvmeController.Create(new NvmeOptions { ImagePath = imagePath, Size = 256 << 20 }, Console.Error.WriteLine);
    using var stop = new CancellationTokenSource();

    // Ends when the parent does: its end of our standard input closes.
    _ = Task.Run(() =>
    {
        Console.In.ReadToEnd();
        stop.Cancel();
    });
    VfioUserServer.Run(
        controller,
        new VfioUserServerOptions
        {
            SocketPath = socketPath,
            Log = line =>
            {
                if (line.StartsWith("listening", StringComparison.Ordinal))
                    Console.Out.WriteLine("ready");
            },
        },
        stop.Token);
    return 0;
}

// [SECONDS] [WORDS]: each case for so long, and only those with the words in their name.
double seconds = args.Length > 0 ? double.Parse(args[0]) : 5;
string words = args.Length > 1 ? args[1] : "";
Console.WriteLine($"The whole path, {seconds} s each: guest driver, VT-d, VFIO, vfio-user over a socket, NVMe controller in a process of its own.");
Console.WriteLine($"{Environment.ProcessorCount} processors, {(Debugger.IsAttached ? "debugger, " : "")}{RunOf.BuildKind} build. Map events are pages mapped or unmapped.");
Console.WriteLine($"Floor: {PlainRead.Measure(Math.Min(seconds, 2)):0} preads of 4 KiB a second, on one thread, from the page cache.");
Console.WriteLine();
Console.WriteLine("case                              |   I/O /s |   MiB/s | map events/s (guest) | map events/s (host) | interrupts/s | vCPU CPU | mismatches");
Console.WriteLine("----------------------------------|---------:|--------:|---------------------:|--------------------:|-------------:|---------:|----------:");
foreach (Case one in Case.All.Where(each => each.Name.Contains(words, StringComparison.Ordinal)))
    RunOf.Measure(one, seconds);
return 0;
