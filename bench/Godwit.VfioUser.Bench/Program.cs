using System.Globalization;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Godwit.VfioUser;
using Godwit.VfioUser.Bench;

// dotnet run -c Release --project bench/Godwit.VfioUser.Bench -- processes [SECONDS] [MAPPINGS]
// dotnet run -c Release --project bench/Godwit.VfioUser.Bench -- --filter '*'
//
// The first measures between two processes. The second runs in this process, because the project that BenchmarkDotNet would generate
// inherits this repository's rules and does not build by them; client and server are threads of one process there.
switch (args)
{
    case ["echo", string path]:
        Floor.Serve(path, files: false);
        return;
    case ["echo-files", string path]:
        Floor.Serve(path, files: true);
        return;
    case ["device", string path]:
        var options = new VfioUserServerOptions
        {
            SocketPath = path,
            Log = line =>
            {
                if (line.StartsWith("listening", StringComparison.Ordinal))
                    OtherProcess.SayReady();
            },
        };
        VfioUserServer.Run(new Pair.MemoryDevice(), options, OtherProcess.UntilTheOtherGoes());
        return;
    case ["processes", .. string[] rest]:
        double seconds = rest.Length > 0 ? double.Parse(rest[0], CultureInfo.InvariantCulture) : 3;
        ProcessRun.Run(TimeSpan.FromSeconds(seconds), rest.Length > 1 ? int.Parse(rest[1], CultureInfo.InvariantCulture) : 1_000_000);
        return;
}

IConfig config = DefaultConfig.Instance
    .AddJob(Job.ShortRun.WithToolchain(InProcessEmitToolchain.Instance).AsDefault())
    .AddDiagnoser(MemoryDiagnoser.Default);
BenchmarkSwitcher.FromAssembly(typeof(Pair).Assembly).Run(args, config);
