using System.CommandLine;
using System.CommandLine.Parsing;
using Godwit.Machine;

namespace Godwit.Cli;

/// <summary><c>--iommu</c> and the short forms of its properties, and <c>--vcpus</c>, whose limit depends on it.</summary>
internal sealed class IommuOptions
{
    private readonly Option<IommuArgument> _iommu = new("--iommu")
    {
        Description = "The guest's IOMMU: none, or intel with properties, see below.",
        HelpName = "intel[,property=value...]|none",
        CustomParser = static result => CommonOptions.Parsed(result, "--iommu", () => IommuArgument.Parse(result.Tokens[0].Value)),
        DefaultValueFactory = static _ => IommuArgument.Default,
    };

    private readonly List<(Option<string> Option, string Property)> _short = [];

    /// <summary>Adds the options to <paramref name="command"/>, with a check of what they say together.</summary>
    /// <param name="command">The command.</param>
    /// <param name="shortForms">Options that stand for a property.</param>
    public IommuOptions(Command command, params IEnumerable<(string Option, string Property)> shortForms)
    {
        command.Options.Add(_iommu);
        foreach ((string name, string property) in shortForms)
        {
            var option = new Option<string>(name) { Description = $"Short for the property {property} of --iommu.", HelpName = "VALUE" };
            option.Validators.Add(result =>
            {
                try
                {
                    _ = IommuArgument.Default.With(property, result.GetValueOrDefault<string>() ?? string.Empty);
                }
                catch (FormatException e)
                {
                    result.AddError($"{name}: {e.Message}");
                }
            });
            command.Options.Add(option);
            _short.Add((option, property));
        }

        command.Options.Add(Vcpus);
        command.Validators.Add(Check);
    }

    /// <summary>How many vCPUs.</summary>
    public DefaultedOption<long> Vcpus { get; } = CommonOptions.Number(
        "--vcpus",
        $"Virtual CPUs. More than {MachineConfig.MaxVcpusWithoutRemapping} need --iommu intel,intremap=on,eim=on.",
        1,
        1,
        MachineConfig.MaxVcpus);

    /// <summary>What was given, all together.</summary>
    public IommuArgument Read(ParseResult parsed) => Read(option => parsed.GetResult(option));

    private IommuArgument Read(Func<Option, OptionResult?> find) => _short
        .Select(each => (each.Property, Result: find(each.Option)))
        .Where(each => each.Result is { Implicit: false })
        .Aggregate(
            find(_iommu)?.GetValueOrDefault<IommuArgument>() ?? IommuArgument.Default,
            (argument, each) => With(argument, each.Property, each.Result!));

    private static IommuArgument With(IommuArgument argument, string property, OptionResult result)
    {
        try
        {
            return argument.With(property, result.GetValueOrDefault<string>()!);
        }
        catch (FormatException e)
        {
            throw new FormatException($"{result.Option.Name}: {e.Message}", e);
        }
    }

    private void Check(CommandResult result)
    {
        try
        {
            IommuArgument argument = Read(result.GetResult);
            long vcpus = result.GetResult(Vcpus) is { Implicit: false } given ? given.GetValueOrDefault<long>() : Vcpus.Default;
            new MachineConfig { Iommu = argument.Kind, Intel = argument.Intel, Vcpus = (int)vcpus }.Validate();
        }
        catch (Exception e) when (e is FormatException or ArgumentException)
        {
            result.AddError(e.Message);
        }
        catch (InvalidOperationException)
        {
            // The value of an option is no value of it, which the parser says by itself, after this.
        }
    }
}
