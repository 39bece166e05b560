using System.Text;

namespace Godwit.Cli;

/// <summary>One line of a chart.</summary>
/// <param name="Name">In the legend.</param>
/// <param name="Style">CSS class, which gives the colour.</param>
/// <param name="Points">Time in seconds, value; a value that is not a number leaves a gap.</param>
internal sealed record ChartLine(string Name, string Style, IReadOnlyList<(double Time, double Value)> Points);

/// <summary>Values over time as an SVG picture.</summary>
internal sealed class LineChart
{
    private const int Width = 920;
    private const int Height = 260;
    private const int Left = 76;
    private const int Right = 24;
    private const int Top = 10;
    private const int Bottom = 26;

    private readonly Axis _time;
    private readonly Axis _value;
    private readonly Func<double, string> _label;

    /// <summary>A chart over a time axis that several charts share.</summary>
    public LineChart(Axis time, Axis value, Func<double, string> label)
    {
        _time = time;
        _value = value;
        _label = label;
    }

    /// <summary>Writes the picture, then its legend.</summary>
    /// <param name="html">Where to.</param>
    /// <param name="title">What it shows, for those who cannot see it.</param>
    /// <param name="lines">What to draw, the first at the bottom.</param>
    /// <param name="limit">A value to mark across the chart, with its name.</param>
    public void Write(StringBuilder html, string title, IReadOnlyList<ChartLine> lines, (double Value, string Name)? limit = null)
    {
        html.Append($"<div class=\"wide\"><svg viewBox=\"0 0 {Width} {Height}\" role=\"img\" aria-label=\"{Html.Text(title)}\">\n");
        foreach (double tick in _value.Ticks)
        {
            double y = Y(tick);
            html.Append($"<line class=\"grid\" x1=\"{Left}\" x2=\"{Width - Right}\" y1=\"{y:0.0}\" y2=\"{y:0.0}\"/>");
            html.Append($"<text class=\"tick\" x=\"{Left - 8}\" y=\"{y + 4:0.0}\" text-anchor=\"end\">{Html.Text(_label(tick))}</text>\n");
        }

        foreach (double tick in _time.Ticks)
            html.Append($"<text class=\"tick\" x=\"{X(tick):0.0}\" y=\"{Height - 8}\" text-anchor=\"middle\">{tick:0.##} s</text>\n");
        if (limit is { } mark)
        {
            double y = Y(mark.Value);
            html.Append($"<line class=\"limit\" x1=\"{Left}\" x2=\"{Width - Right}\" y1=\"{y:0.0}\" y2=\"{y:0.0}\"/>");
            // At the left: there nothing is expected yet.
            html.Append($"<text class=\"tick\" x=\"{Left + 4}\" y=\"{y - 5:0.0}\">{Html.Text(mark.Name)}</text>\n");
        }

        foreach (ChartLine line in lines)
            WriteLine(html, line);
        html.Append("</svg></div>\n<ul class=\"legend\">");
        foreach (ChartLine line in lines)
            html.Append($"<li><span class=\"key {line.Style}\"></span>{Html.Text(line.Name)}</li>");
        html.Append("</ul>\n");
    }

    private void WriteLine(StringBuilder html, ChartLine line)
    {
        bool open = false;
        html.Append($"<path class=\"line {line.Style}\" d=\"");
        foreach ((double time, double value) in line.Points)
        {
            if (!double.IsFinite(value))
            {
                open = false;
                continue;
            }

            html.Append($"{(open ? 'L' : 'M')}{X(time):0.0} {Y(value):0.0}");
            open = true;
        }

        html.Append($"\"><title>{Html.Text(line.Name)}</title></path>\n");
    }

    private double X(double time) => Left + (_time.Place(time) * (Width - Left - Right));

    private double Y(double value) => Height - Bottom - (_value.Place(value) * (Height - Top - Bottom));
}
