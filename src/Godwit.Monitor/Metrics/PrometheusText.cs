using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text;

namespace Godwit.Monitor;

/// <summary>A meter's observed instruments in Prometheus's text format, version 0.0.4.</summary>
internal static class PrometheusText
{
    /// <summary>Content type of the format.</summary>
    public const string ContentType = "text/plain; version=0.0.4; charset=utf-8";

    /// <summary>Asks every instrument of <paramref name="meter"/> now.</summary>
    public static string Of(Meter meter)
    {
        var families = new SortedDictionary<string, StringBuilder>(StringComparer.Ordinal);
        using var listener = new MeterListener();
        listener.InstrumentPublished = (instrument, self) =>
        {
            if (ReferenceEquals(instrument.Meter, meter))
            {
                self.EnableMeasurementEvents(instrument);
            }
        };
        listener.SetMeasurementEventCallback<double>((instrument, value, tags, _) => Add(families, instrument, value, tags));
        listener.Start();
        listener.RecordObservableInstruments();
        return string.Concat(families.Values);
    }

    private static void Add(
        SortedDictionary<string, StringBuilder> families, Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        string name = NameOf(instrument);
        if (!families.TryGetValue(name, out StringBuilder? text))
        {
            text = new StringBuilder();
            text.Append(CultureInfo.InvariantCulture, $"# HELP {name} {instrument.Description?.Replace("\\", "\\\\", StringComparison.Ordinal).ReplaceLineEndings(" ")}\n");
            text.Append(CultureInfo.InvariantCulture, $"# TYPE {name} {(IsCounter(instrument) ? "counter" : "gauge")}\n");
            families.Add(name, text);
        }

        text.Append(name);
        for (int i = 0; i < tags.Length; i++)
        {
            text.Append(i == 0 ? '{' : ',').Append(tags[i].Key).Append("=\"").Append(Escape($"{tags[i].Value}")).Append('"');
        }

        text.Append(tags.Length > 0 ? "} " : " ").Append(value.ToString("R", CultureInfo.InvariantCulture)).Append('\n');
    }

    /// <summary>Prometheus names have underscores, the unit at the end, and "total" after what only grows.</summary>
    private static string NameOf(Instrument instrument)
    {
        string unit = instrument.Unit switch
        {
            "By" => "_bytes",
            "By/s" => "_bytes_per_second",
            "s" => "_seconds",
            "{page}/s" => "_per_second",
            _ => "",
        };
        return instrument.Name.Replace('.', '_') + unit + (IsCounter(instrument) ? "_total" : "");
    }

    private static bool IsCounter(Instrument instrument) => instrument is ObservableCounter<double>;

    private static string Escape(string value) => value
        .Replace("\\", "\\\\", StringComparison.Ordinal)
        .Replace("\"", "\\\"", StringComparison.Ordinal)
        .Replace("\n", "\\n", StringComparison.Ordinal);
}
