using System.Globalization;
using System.Net;
using System.Text;
using Godwit.Machine;

namespace Godwit.Monitor;

/// <summary>Serves one machine's metrics in Prometheus's text format at <c>http://HOST:PORT/metrics</c>. Read-only and without secrets, but not authenticated.</summary>
public sealed class MetricsServer : IAsyncDisposable
{
    private readonly HttpListener _listener = new();
    private readonly MachineMetrics _metrics;
    private readonly Task _serving;

    private MetricsServer(VirtualMachine machine, string prefix)
    {
        _listener.Prefixes.Add(prefix);
        _listener.Start();
        _metrics = new MachineMetrics(machine);
        _serving = ServeAsync();
    }

    /// <summary>Listens. The machine must outlive the server.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="address">HOST:PORT; an IPv6 address in brackets.</param>
    /// <exception cref="FormatException">The address is not of that form.</exception>
    /// <exception cref="IOException">It cannot be listened on.</exception>
    public static MetricsServer Start(VirtualMachine machine, string address)
    {
        int colon = address.LastIndexOf(':');
        if (colon <= 0 || !ushort.TryParse(address[(colon + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out ushort port) || port == 0
            || Uri.CheckHostName(address[..colon]) == UriHostNameType.Unknown)
        {
            throw new FormatException($"'{address}' is no address for metrics; the form is HOST:PORT with a port from 1 to {ushort.MaxValue}");
        }

        // HttpListener takes requests for the host of its prefix only; a plus sign stands for every address of this host.
        string host = IPAddress.TryParse(address[..colon].Trim('[', ']'), out IPAddress? ip) && (ip.Equals(IPAddress.Any) || ip.Equals(IPAddress.IPv6Any))
            ? "+"
            : address[..colon];
        try
        {
            return new MetricsServer(machine, $"http://{host}:{port}/metrics/");
        }
        catch (HttpListenerException e)
        {
            throw new IOException($"Cannot serve metrics at {address}: {e.Message}", e);
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _listener.Close();
        await _serving;
        _metrics.Dispose();
    }

    private async Task ServeAsync()
    {
        while (true)
        {
            HttpListenerContext context;
            try
            {
                context = await _listener.GetContextAsync();
            }
            catch (Exception e) when (e is HttpListenerException or ObjectDisposedException)
            {
                return; // closed
            }

            try
            {
                Answer(context);
            }
            catch (Exception e) when (e is HttpListenerException or IOException or ObjectDisposedException)
            {
                // The scraper has gone before it had its answer.
            }
        }
    }

    private void Answer(HttpListenerContext context)
    {
        using HttpListenerResponse response = context.Response;
        if (context.Request.HttpMethod is not ("GET" or "HEAD"))
        {
            response.StatusCode = (int)HttpStatusCode.MethodNotAllowed;
            return;
        }

        byte[] text = Encoding.UTF8.GetBytes(PrometheusText.Of(_metrics.Meter));
        response.ContentType = PrometheusText.ContentType;
        response.ContentLength64 = text.Length;
        if (context.Request.HttpMethod == "GET")
        {
            response.OutputStream.Write(text);
        }
    }
}
