// Serves the device of ChecksumDevice.cs on a socket:
//
//   dotnet run --project examples/ChecksumDevice -- /tmp/sum.sock
//   godwit device check --socket /tmp/sum.sock
using Godwit.Examples;
using Godwit.VfioUser;

if (args is not [string path])
{
    Console.Error.WriteLine("usage: ChecksumDevice SOCKET");
    return 2;
}
using var stop = new CancellationTokenSource();
Console.CancelKeyPress += (_, press) =>
{
    press.Cancel = true;
    stop.Cancel();
};
using var device = new ChecksumDevice { Log = Console.Error.WriteLine };
VfioUserServer.Run(device, new VfioUserServerOptions { SocketPath = path, Log = Console.Error.WriteLine }, stop.Token);
return 0;
